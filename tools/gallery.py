"""Pictures that the generators make, of scenes painted for them."""

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from markupsafe import Markup, escape
from torch import Tensor

from reference_impl.generation import (
    OcclusionNetwork,
    adversarial_dropout,
    adversarial_transformer,
    blurred_mask,
    bounding_box_generator,
    cut_paste,
    hardest_window,
    instance_switching,
    iou_uniform,
    random_shift,
    task_aware_synthesis,
)
from reference_impl.ops.boxes import box_iou
from tools.charts import scene

HEIGHT, WIDTH = 48, 72
CELLS = 7


@dataclass(frozen=True)
class Picture:
    what: Markup
    caption: str


def pictures(id: str) -> list[Picture]:
    """Pictures made by the method, always the same ones; none for a method that makes no pictures."""
    make = MAKERS.get(id)
    if make is None:
        return []
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
    background, (first, first_mask), (second, second_mask) = _landscape(), _disc(), _house()
    source, mask = torch.stack((first, second)), torch.stack((first_mask, second_mask))
    around = torch.tensor([[28.0, 14.0, 44.0, 30.0], [26.0, 14.0, 46.0, 34.0]])
    shift = random_shift(around, torch.tensor([float(WIDTH), float(HEIGHT)]))
    found = [_picture(background, "the background")]
    for name, alpha in (("hard masks", mask.float()), ("masks with soft edges", blurred_mask(mask.float(), radius=1))):
        image, _, visible = cut_paste(background, source, mask, shift, alpha)
        found.append(_picture(image, f"two objects, pasted with {name}; {100 * visible.min():.0f} % and more of each is seen"))
    return found


def _switched() -> list[Picture]:
    (first, first_mask), (second, second_mask) = _disc(), _house()
    images = torch.stack((torch.where(first_mask, first, _landscape()), torch.where(second_mask, second, _landscape(0.7))))
    boxes = torch.tensor([[28.0, 14.0, 44.0, 30.0], [26.0, 14.0, 46.0, 34.0]])
    after = instance_switching(images, torch.stack((first_mask, second_mask)), boxes)
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


MAKERS: dict[str, Callable[[], list[Picture]]] = {
    "generation.positive_roi": _boxes_of_an_iou,
    "generation.iou_uniform": _boxes_of_an_interval,
    "generation.adversarial_dropout": _occlusions,
    "generation.adversarial_transformer": _turned,
    "generation.cut_paste": _pasted,
    "generation.instance_switching": _switched,
    "generation.task_aware_synthesis": _synthesised,
}


def _landscape(light: float = 1.0) -> Tensor:
    """Sky above ground, `[3 h w]`."""
    y = torch.linspace(0, 1, HEIGHT)[:, None].expand(HEIGHT, WIDTH)
    hill = 0.62 + 0.06 * torch.sin(torch.linspace(0, 9, WIDTH))
    sky, ground = torch.stack((0.55 + 0.3 * y, 0.7 + 0.2 * y, 0.95 - 0.1 * y)), torch.stack((0.35 - 0.1 * y, 0.62 - 0.2 * y, 0.3 - 0.1 * y))
    return light * torch.where(y > hill, ground, sky)


def _disc() -> tuple[Tensor, Tensor]:
    y, x = torch.arange(HEIGHT)[:, None] - 21.5, torch.arange(WIDTH) - 35.5
    mask = y**2 + x**2 < 64
    shade = 1 - (y**2 + (x + 3) ** 2).sqrt() / 20
    return torch.stack((0.95 * shade, 0.55 * shade, 0.2 * shade)) * mask, mask


def _house() -> tuple[Tensor, Tensor]:
    y, x = torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH), torch.arange(WIDTH).expand(HEIGHT, WIDTH)
    wall = (y >= 23) & (y < 34) & (x >= 28) & (x < 44)
    roof = (y >= 14) & (y < 23) & ((x - 35.5).abs() <= y - 13)
    door = (y >= 27) & (y < 34) & (x >= 34) & (x < 38)
    red, green, blue = (torch.where(door, a, torch.where(roof, b, c)) for a, b, c in ((0.3, 0.7, 0.9), (0.2, 0.25, 0.85), (0.2, 0.2, 0.75)))
    return torch.stack((red, green, blue)) * (wall | roof), wall | roof


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
