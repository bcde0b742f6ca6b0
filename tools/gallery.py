"""Pictures that the generators make, of scenes painted for them."""

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from markupsafe import Markup, escape
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from reference_impl.generation import (
    ContextNetwork,
    FeatureDiscriminator,
    FeatureSuperResolution,
    OcclusionNetwork,
    TargetExtractor,
    adversarial_dropout,
    adversarial_transformer,
    background_contexts,
    blurred_mask,
    bounding_box_generator,
    boxes_beside,
    candidate_boxes,
    context_frames,
    context_guided_pasting,
    cut_paste,
    drawn_places,
    feature_discriminator_loss,
    feature_generator_loss,
    fitting_instances,
    hardest_window,
    instance_switching,
    iou_uniform,
    jittered_boxes,
    motion_blur,
    pasting_candidates,
    poisson_blend,
    random_shift,
    recoloured_instances,
    scale_and_rotate,
    scaled_boxes,
    task_aware_synthesis,
)
from reference_impl.ops.boxes import box_around, box_iou, box_size
from reference_impl.ops.roi_align import roi_align
from tools.charts import scene

HEIGHT, WIDTH = 48, 72
CELLS = 7
# Tight boxes of the two painted objects, and the colours in which boxes for each are drawn.
BALL, HOUSE = [28.0, 14.0, 44.0, 30.0], [26.0, 14.0, 46.0, 34.0]
STEPS, UNUSED = 100, -100
COLOURS = [[1.0, 0.55, 0.1], [0.6, 0.1, 0.1]]


@dataclass(frozen=True)
class Picture:
    what: Markup
    caption: str


def gallery() -> dict[str, list[Picture]]:
    """The pictures of every method that makes some, always the same ones."""
    return {id: _made(make) for id, make in MAKERS.items()}


def _made(make: Callable[[], list[Picture]]) -> list[Picture]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def _boxes_of_an_iou() -> list[Picture]:
    truth = torch.tensor([140.0, 90.0, 280.0, 190.0], dtype=torch.float64)
    found = []
    for wanted in (0.5, 0.6, 0.7, 0.8, 0.9):
        boxes = bounding_box_generator(truth.expand(25, 4), torch.full((25,), wanted, dtype=torch.float64))
        iou = box_iou(boxes, truth)
        caption = f"asked for IoU {wanted}: 25 boxes, IoU {iou.min():.2f} to {iou.max():.2f}"
        found.append(_boxes(truth, boxes, caption))
    return found


def _boxes_of_an_interval() -> list[Picture]:
    truth = torch.tensor([140.0, 90.0, 280.0, 190.0], dtype=torch.float64)
    interval = torch.arange(4).repeat_interleave(500)
    boxes, iou, chosen = iou_uniform(truth[None], torch.zeros_like(interval), interval)
    found = []
    for k in range(4):
        mine = chosen & (interval == k)
        caption = f"{int(mine.sum())} of 500 boxes are kept, IoU {iou[mine].min():.2f} to {iou[mine].max():.2f}"
        found.append(_boxes(truth, boxes[mine], caption))
    return found


def _boxes(truth: Tensor, boxes: Tensor, caption: str) -> Picture:
    drawn = [*((b, "positive") for b in boxes.tolist()), (truth.tolist(), "truth")]
    return Picture(scene(drawn, (420, 280), label=caption), caption)


def _occlusions() -> list[Picture]:
    """A classifier that finds the class by the strength of the features, the window that fools it most, and one draw of the dropout."""
    y, x = (torch.arange(CELLS) - c for c in (2, 4))
    evidence = torch.exp(-(y[:, None] ** 2 + x**2) / 4.0)
    windows = OcclusionNetwork.windows(CELLS)
    p_s = ((evidence * ~windows).sum((-2, -1)) - 0.5 * evidence.sum()).sigmoid()
    window = hardest_window(p_s, windows)
    _, mask = adversarial_dropout(evidence[None], torch.where(window, 2.0, -2.0) + 0.5 * evidence)
    return [
        _picture(evidence.expand(3, CELLS, CELLS), "features: where the class can be seen"),
        _picture((1 - window.float()).expand(3, CELLS, CELLS), "the window (black) that leaves the classifier least sure"),
        _picture((evidence * ~mask).expand(3, CELLS, CELLS), f"one draw: {int(mask.sum())} cells are dropped"),
    ]


def _turned() -> list[Picture]:
    y, x = (torch.linspace(-1, 1, 28) for _ in range(2))
    pattern = ((x.abs() < 0.15) & (y[:, None] < 0.6) | ((y[:, None] + 0.5).abs() < 0.15) & (x > 0)).float()
    found = []
    for angle in (0.0, 0.3, 0.8):
        turned = adversarial_transformer(pattern[None], torch.tensor([angle]))
        found.append(_picture(turned.expand(3, 28, 28), f"turned by {angle} radians"))
    return found


def _pasted() -> list[Picture]:
    background, (source, mask) = _landscape(), _objects()
    shift = random_shift(torch.tensor([BALL, HOUSE]), torch.tensor([float(WIDTH), float(HEIGHT)]))
    found = [_picture(background, "the background")]
    for name, alpha in (("hard masks", mask.float()), ("masks with soft edges", blurred_mask(mask.float(), radius=1))):
        image, _, visible = cut_paste(background, source, mask, shift, alpha)
        found.append(_picture(image, f"two objects, pasted with {name}; at least {100 * visible.min():.0f} % of each is seen"))
    blended = background
    for thing, of_thing, by in zip(source, mask, shift, strict=True):
        blended = poisson_blend(blended, thing, of_thing, by)
    found.append(_picture(blended, "by Poisson blending, which keeps differences of colour and not colours"))
    found.append(_picture(motion_blur(image, torch.tensor(30.0), before=2, after=2), "the soft edges again, blurred as by motion"))
    smaller, its_mask = scale_and_rotate(source, mask, min_scale=0.5, max_scale=0.9)
    found.append(_picture(cut_paste(background, smaller, its_mask, shift)[0], "the objects made smaller and turned"))
    return found


def _switched() -> list[Picture]:
    source, mask = _objects()
    images = torch.where(mask[:, None], source, torch.stack((_landscape(), _landscape(0.7))))
    after = instance_switching(images, mask, torch.tensor([BALL, HOUSE]))
    names = ["first image", "second image", "first image, with the other's object", "second image, with the other's object"]
    return [_picture(x, name) for x, name in zip((*images, *after), names, strict=True)]


def _synthesised() -> list[Picture]:
    foreground, mask = _house()
    found = []
    for transform, name in (
        ([0.0, 0.0, 1.0, 1.0, 0.0, 0.0], "as it is cut out"),
        ([0.3, 0.2, 0.7, 0.7, 0.2, 0.15], "turned, sheared, smaller and moved"),
        ([-0.2, 0.0, 1.4, 1.1, -0.2, 0.0], "turned, wider and moved"),
    ):
        image, _, _ = task_aware_synthesis(foreground, mask.float(), _landscape(), torch.tensor(transform))
        found.append(_picture(image, name))
    return found


def _pasted_by_context() -> list[Picture]:
    """A network learns from scenes what surrounds a ball and a house, and says where in an empty landscape they may be pasted."""
    images, boxes = _scenes(64)
    size, mean = torch.tensor([float(WIDTH), float(HEIGHT)]), images.mean((0, 2, 3))[:, None, None]
    shapes = torch.ones(1, 1, dtype=torch.int64), torch.tensor([[0.03, 0.1], [0.7, 1.4]])
    network = ContextNetwork(2, width=8, size=16)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(STEPS):
        pick = torch.randint(len(images), (12,))
        candidates = candidate_boxes(size.expand(12, 2), *shapes, torch.rand(12, 2, 4))
        asked = jittered_boxes(torch.cat((boxes[pick], candidates), 1), size.expand(12, 2))
        logits = network(images[pick] - mean, asked, context_frames(asked, size.expand(12, 2)))
        background = torch.where(background_contexts(boxes[pick], candidates), 2, UNUSED)
        labels = torch.cat((torch.arange(2).expand(12, 2), background), 1)
        optimiser.zero_grad()
        cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNUSED).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    empty, places = _landscape(phase=1.0), candidate_boxes(size, *shapes, torch.rand(60, 4))
    logits = network((empty - mean)[None], places[None], context_frames(places, size)[None])[0]
    label, score = pasting_candidates(logits, places, size)
    index, target = fitting_instances(places, label, torch.tensor([BALL, HOUSE]), torch.arange(2), size)
    used = drawn_places(score.where(index >= 0, 0))
    (source, mask), tight = _objects(), torch.tensor([BALL, HOUSE])
    after, _ = context_guided_pasting(empty, source[index[used]], mask[index[used]], tight[index[used]], target[used])
    balls, houses = (int((label == c).sum()) for c in range(2))
    larger, _ = context_guided_pasting(images[0], source, mask, tight, scaled_boxes(boxes[0]))
    other = recoloured_instances(source, tight, torch.tensor([0.9, 0.6, 0.7]).expand(2, 3))
    beside = boxes_beside(scaled_boxes(boxes[0], min_scale=0.5, max_scale=2.0), size)
    copied, _ = context_guided_pasting(images[0], other, mask, tight, beside)
    return [
        _picture(images[0], "one of 64 scenes that show where balls and houses are"),
        _picture(
            _outlined(empty, places, label), f"60 places: the context speaks for a ball at {balls} (orange), for a house at {houses} (red)"
        ),
        _picture(after, "two of these places, drawn by their scores, are filled"),
        _picture(larger, "without the network: the objects of the first scene, enlarged in place"),
        _picture(copied, "without the network: copies beside them, with other contrast, colour and brightness"),
    ]


def _super_resolved() -> list[Picture]:
    """A backbone that blurs, so that its features are pictures, and a generator that learns what half-size images lose."""
    images, boxes = _scenes(48)
    half, layers = avg_pool2d(images, 2), (_blur(stride=1), _blur(stride=2))
    shallow = layers[0](half)
    deep, target = layers[1](shallow), TargetExtractor(nn.Sequential(*layers))(images)
    features, detail, target = (roi_align(x, boxes, scale=x.shape[-1] / WIDTH, size=12) for x in (deep, shallow, target))
    generator, discriminator = FeatureSuperResolution(3, 3, width=16), FeatureDiscriminator(3, size=12, hidden=32)
    optimisers = [torch.optim.Adam(m.parameters(), lr=lr) for m, lr in ((generator, 0.005), (discriminator, 0.002))]
    for _ in range(STEPS):
        pick = 1 + torch.randint(len(images) - 1, (16,))
        made = generator(features[pick], detail[pick])
        content, adversarial = feature_generator_loss(made, target[pick], discriminator(made))
        told = feature_discriminator_loss(discriminator(made.detach()), discriminator(target[pick]))
        for optimiser, module, loss in zip(optimisers, (generator, discriminator), (content + 0.1 * adversarial, told), strict=True):
            optimiser.zero_grad()
            loss.mean().backward(inputs=list(module.parameters()))  # type: ignore[no-untyped-call]
            optimiser.step()
    before, after, wanted = features[0, 1], generator(features[0], detail[0])[1].detach(), target[0, 1]
    far, near = ((x - wanted).square().sum() for x in (before, after))
    return [
        _picture(images[0], "a scene that is not trained on"),
        _picture(before, f"features of the house, pooled from the scene at half size: {far:.2f} from the target, squared"),
        _picture(wanted, "the target: of the dilated backbone, pooled from the scene at full size"),
        _picture(after, f"what the generator makes of the first after {STEPS} steps: {near:.2f} from the target"),
    ]


MAKERS: dict[str, Callable[[], list[Picture]]] = {
    "generation.positive_roi": _boxes_of_an_iou,
    "generation.iou_uniform": _boxes_of_an_interval,
    "generation.adversarial_dropout": _occlusions,
    "generation.adversarial_transformer": _turned,
    "generation.context_guided_pasting": _pasted_by_context,
    "generation.cut_paste": _pasted,
    "generation.feature_super_resolution": _super_resolved,
    "generation.instance_switching": _switched,
    "generation.task_aware_synthesis": _synthesised,
}


def _scenes(count: int) -> tuple[Tensor, Tensor]:
    """Landscapes with a ball in the sky and a house on the ground: images `[count 3 h w]` and boxes `[count 2 4]`."""
    landscapes = torch.stack([_landscape(phase=phase) for phase in (6.3 * torch.rand(count)).tolist()])
    across = torch.rand(count, 2) * (WIDTH - 16) + 8
    down = torch.tensor([9.0, 28.0]) + 2 * torch.randn(count, 2).clamp(-2, 2)
    tight, center = torch.tensor([BALL, HOUSE]), torch.stack((across, down), -1)
    size = box_size(tight) * (0.6 + 0.4 * torch.rand(count, 2, 1))
    source, mask = (x.expand(count, *x.shape) for x in _objects())
    return context_guided_pasting(landscapes, source, mask, tight.expand(count, 2, 4), box_around(center, size))


def _landscape(light: float = 1.0, phase: float = 0.0) -> Tensor:
    """Sky above ground, `[3 h w]`."""
    y = torch.linspace(0, 1, HEIGHT)[:, None].expand(HEIGHT, WIDTH)
    hill = 0.62 + 0.06 * torch.sin(torch.linspace(0, 9, WIDTH) + phase)
    sky, ground = torch.stack((0.55 + 0.3 * y, 0.7 + 0.2 * y, 0.95 - 0.1 * y)), torch.stack((0.35 - 0.1 * y, 0.62 - 0.2 * y, 0.3 - 0.1 * y))
    return light * torch.where(y > hill, ground, sky)


def _objects() -> tuple[Tensor, Tensor]:
    """The ball and the house, `[2 3 h w]`, and their masks."""
    source, mask = zip(_disc(), _house(), strict=True)
    return torch.stack(source), torch.stack(mask)


def _disc() -> tuple[Tensor, Tensor]:
    y, x = torch.arange(HEIGHT)[:, None] - 21.5, torch.arange(WIDTH) - 35.5
    mask = y**2 + x**2 < 64
    shade = 1 - (y**2 + (x + 3) ** 2).sqrt() / 20
    return torch.stack((0.95 * shade, 0.55 * shade, 0.2 * shade)), mask


def _house() -> tuple[Tensor, Tensor]:
    y, x = torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH), torch.arange(WIDTH).expand(HEIGHT, WIDTH)
    wall = (y >= 23) & (y < 34) & (x >= 28) & (x < 44)
    roof = (y >= 14) & (y < 23) & ((x - 35.5).abs() <= y - 13)
    door = (y >= 27) & (y < 34) & (x >= 34) & (x < 38)
    red, green, blue = (torch.where(door, a, torch.where(roof, b, c)) for a, b, c in ((0.3, 0.7, 0.9), (0.2, 0.25, 0.85), (0.2, 0.2, 0.75)))
    return torch.stack((red, green, blue)), wall | roof


def _blur(*, stride: int) -> nn.Conv2d:
    """A layer that weighs each pixel of each colour 4, its neighbours 2 and 1, out of 16."""
    layer = nn.Conv2d(3, 3, 3, stride=stride, padding=1, groups=3, bias=False).requires_grad_(False)
    ramp = torch.tensor([1.0, 2.0, 1.0]) / 4
    layer.weight[:] = ramp[:, None] * ramp
    return layer


def _outlined(pixels: Tensor, boxes: Tensor, label: Tensor, times: int = 6) -> Tensor:
    """A larger image with the edges of the boxes that have a label, in its colour."""
    image = pixels.repeat_interleave(times, -2).repeat_interleave(times, -1)
    for c, colour in enumerate(COLOURS):
        for x1, y1, x2, y2 in (boxes[label == c] * times).long().tolist():
            inner = torch.zeros(image.shape[1:], dtype=torch.bool)
            inner[y1:y2, x1:x2] = True
            inner[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = False
            image = torch.where(inner, torch.tensor(colour)[:, None, None], image)
    return image


def _picture(pixels: Tensor, caption: str) -> Picture:
    """An image `[3 h w]` with values in [0, 1], in the page itself."""
    data = base64.b64encode(png(pixels)).decode()
    return Picture(Markup(f'<img class="pixels" src="data:image/png;base64,{data}" alt="{escape(caption)}">'), caption)


def png(pixels: Tensor) -> bytes:
    """An RGB image as a PNG file."""
    height, width = pixels.shape[1:]
    rows = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).reshape(height, width * 3)
    lines = b"".join(b"\0" + bytes(row) for row in rows.tolist())
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)) for name, content in chunks
    )
