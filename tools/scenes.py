"""Features in which the objects can be seen: rectangles painted into maps, so that a head has something to learn in a few steps."""

import torch
from torch import Tensor

from reference_impl.ops.boxes import decode_deltas

STRIDE, CLASSES, SIDE = 4, 2, 128


def painted(images: int, *, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Two objects of two classes in each image of 128 pixels: features `[images 2 32 32]`, boxes and labels.

    Map c holds, for every cell of 4 pixels, which part of it the objects of class c cover.
    """
    draw = torch.Generator().manual_seed(seed)
    corner = 8 + 16 * torch.rand(images, 2, 2, generator=draw) + torch.tensor([[0.0, 0.0], [64.0, 48.0]])
    boxes = torch.cat((corner, corner + 24 + 16 * torch.rand(images, 2, 2, generator=draw)), -1)
    labels = torch.randint(CLASSES, (images, 2), generator=draw)
    covered = _covered(boxes[..., 1::2])[..., :, None] * _covered(boxes[..., 0::2])[..., None, :]
    maps = [(covered * (labels == c)[..., None, None]).sum(1) for c in range(CLASSES)]
    return torch.stack(maps, 1).to(device, dtype), boxes.to(device, dtype), labels.to(device)


def _covered(interval: Tensor) -> Tensor:
    """Which part of each cell lies in the interval, `[... 2]` -> `[... cells]`."""
    start = STRIDE * torch.arange(SIDE // STRIDE, dtype=interval.dtype)
    low, high = interval[..., :1], interval[..., 1:]
    return (torch.minimum(high, start + STRIDE) - torch.maximum(low, start)).clamp(min=0) / STRIDE


def jittered(boxes: Tensor, *, each: int, seed: int, spread: float = 0.35) -> Tensor:
    """`each` boxes around every box, moved and stretched at random: mostly of low IoU, as those of a proposal network."""
    draw = torch.Generator().manual_seed(seed)
    source = boxes.repeat_interleave(each, dim=1)
    shift, stretch = (torch.randn(*source.shape[:-1], 2, generator=draw).clamp(-1.5, 1.5).to(boxes) for _ in range(2))
    return decode_deltas(spread * torch.cat((shift, stretch), -1), source)
