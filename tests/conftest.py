"""One thread, so that sums come out the same everywhere; every device there is; the catalog read once."""

import gc

import pytest
import torch
import torch._dynamo.guards

from tests.inputs import CATALOG
from tools.catalog import Catalog

torch.set_num_threads(1)

# Each graph's guards would be timed, with the caches emptied first, for no other purpose than a line in the log.
torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0

# Where sizes are symbols, to remember what an operator gives takes longer than to find it out again.
changing_sizes = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares the built site, or the report of the fake device, comes first and so to one worker, which makes it once."""
    items.sort(key=lambda item: not {"root", "report"} & set(getattr(item, "fixturenames", ())))


def pytest_collection_finish() -> None:
    """What is there to stay, the modules and the tests themselves, is not gone through for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return CATALOG


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()
