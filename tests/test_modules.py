"""What every pyramid keeps, made as its entry says: any sizes, any dtype, one graph, and every parameter learns."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.torch_version import TorchVersion
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.conftest import DEVICES, changing_sizes
from tests.inputs import CATALOG
from tools.assemble import BACKBONE, assemble
from tools.golden import Case, arguments, cases, parameters, resolve, tensor_annotation

PYRAMIDS = [id for id, method in CATALOG.implemented.items() if method.pyramid]
every_pyramid = pytest.mark.parametrize("id", PYRAMIDS)
MODULES = {resolve(case.id, case.golden.call): case for case in cases(CATALOG) if isinstance(resolve(case.id, case.golden.call), type)}

NARROW = 16
IMAGE, ODD_IMAGE = (800, 1333), (333, 500)


def levels(id: str, image: tuple[int, int], dtype: torch.dtype = torch.float32, device: str = "cpu", shrink: int = 1) -> list[Tensor]:
    """Backbone levels for an image, at a sixteenth of ResNet-50's channels."""
    draw = torch.Generator().manual_seed(0)
    method = CATALOG.methods[id]
    assert method.pyramid
    shapes = [
        (BACKBONE[name][0] // NARROW, *(-(-side // BACKBONE[name][1] // shrink) for side in image)) for name in method.pyramid.backbone
    ]
    return [torch.randn(2, *shape, generator=draw).to(device, dtype) for shape in shapes]


def pyramid(id: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    torch.manual_seed(0)
    return assemble(CATALOG, id, shrink=NARROW, repeats=1).to(device, dtype)


@every_pyramid
@pytest.mark.parametrize("image", [IMAGE, ODD_IMAGE], ids=str)
def test_forward_and_backward(id: str, image: tuple[int, int]) -> None:
    """From the levels of a real image to finite levels, finest first; the gradient reaches every input and every parameter."""
    module, given = pyramid(id), [x.requires_grad_() for x in levels(id, image, shrink=2)]
    found = module(given)
    assert isinstance(found, list)
    for a, b in pairwise(found):
        assert a.shape[-1] >= b.shape[-1]
    sum(x.square().mean() for x in found).backward()
    for x in (*found, *(x.grad for x in given)):
        assert x is not None
        assert x.isfinite().all()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} is not used"
        assert parameter.grad.isfinite().all(), name


@every_pyramid
def test_images_do_not_meet(id: str) -> None:
    """A batch gives what each image alone gives."""
    module, given = pyramid(id, torch.float64).eval(), levels(id, ODD_IMAGE, torch.float64, shrink=4)
    together = module(given)
    for i in range(2):
        for x, alone in zip(together, module([x[i : i + 1] for x in given]), strict=True):
            torch.testing.assert_close(x[i : i + 1], alone, rtol=1e-9, atol=1e-9)


@every_pyramid
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtype_and_device_are_kept(id: str, dtype: torch.dtype, device: str) -> None:
    for x in pyramid(id, dtype, device)(levels(id, ODD_IMAGE, dtype, device, shrink=4)):
        assert x.dtype is dtype
        assert x.device.type == device
        assert x.isfinite().all()


@every_pyramid
def test_inputs_are_not_modified(id: str) -> None:
    given = levels(id, ODD_IMAGE, shrink=4)
    pyramid(id)(given)
    assert all(x._version == 0 for x in given)


@every_pyramid
@changing_sizes
def test_one_graph_for_all_sizes(id: str) -> None:
    """One for every size that the coarsest level divides, if the first call says that heights and widths change."""
    counter = CompileCounter()
    compiled = torch.compile(pyramid(id, device="meta").eval(), fullgraph=True, backend=counter)
    images = [levels(id, image, device="meta") for image in ((1024, 1280), (1280, 1536), (1536, 1024), (1024, 1536))]
    for x in images[0]:
        torch._dynamo.maybe_mark_dynamic(x, [2, 3])
    for given in images:
        compiled(given)
    # Before 2.12 torch needs one graph for each remainder of a size where means are taken of incomplete cells.
    remainders = 3 if id == "pyramids.scale_transfer" and TorchVersion(torch.__version__) < (2, 12) else 1
    assert counter.frame_count == remainders


@every_pyramid
def test_wrong_levels_are_named(id: str) -> None:
    """Too few levels, other channels, coarsest first, and something that is no tensor."""
    module, given = pyramid(id), levels(id, ODD_IMAGE, shrink=4)
    with pytest.raises(ValueError, match=r"`levels` has \d feature maps; expected"):
        module([*given, given[-1]])
    with pytest.raises(ValueError, match=r"`levels\[0\]` has shape .* expected"):
        module([torch.cat((given[0], given[0]), 1), *given[1:]])
    with pytest.raises(TypeError, match=r"`levels\[0\]` is torch.int64; expected"):
        module([given[0].long(), *given[1:]])


@pytest.mark.parametrize("case", MODULES.values(), ids=lambda case: case.name)
def test_no_images(case: Case) -> None:
    """As many as there are give outputs of the same shapes, but for their number. Lists are of levels."""
    make = resolve(case.id, case.golden.call)
    module, given = make(**case.golden.init).eval(), arguments(CATALOG, make, case.golden.args, torch.float32)
    batched = [name for name, p in parameters(make).items() if (kind := tensor_annotation(p.annotation)) and kind.dim_str.startswith("b ")]
    none = {name: tree_map_only(Tensor, lambda y: y[:0], x) if isinstance(x, list) or name in batched else x for name, x in given.items()}
    found, expected = ([y for y in tree_leaves(module(**inputs)) if isinstance(y, Tensor)] for inputs in (none, given))
    assert [x.shape[1:] for x in found] == [y.shape[1:] for y in expected]


@pytest.mark.parametrize("case", MODULES.values(), ids=lambda case: case.name)
def test_a_copy_computes_the_same(case: Case) -> None:
    """By `deepcopy`, by pickle, and by the state of one in another, all after a call; and whatever the default device is."""
    make = resolve(case.id, case.golden.call)
    module, other = make(**case.golden.init).eval(), make(**case.golden.init).eval()
    given = arguments(CATALOG, make, case.golden.args, torch.float32)
    expected = [x for x in tree_leaves(module(**given)) if isinstance(x, Tensor)]
    other.load_state_dict(module.state_dict())
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        with torch.device("meta"):
            found = [x for x in tree_leaves(same(**given)) if isinstance(x, Tensor)]
        assert all(map(torch.equal, found, expected))
