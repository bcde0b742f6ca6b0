"""Real boxes: the images and annotations of `catalog/data/`."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tools.catalog import ROOT


@dataclass(frozen=True)
class Annotations:
    """Images with their boxes, padded.

    Attributes:
        size: width and height of each image in pixels, `[b 2]`.
        boxes: absolute `(x1, y1, x2, y2)`, `[b m 4]`.
        labels: 0 to 79, and 80 for padding, `[b m]`.
        valid: which boxes are no padding, `[b m]`.
        classes: names of the 80 classes.
    """

    size: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    classes: list[str]

    def resized(self, short: float, longest: float) -> "Annotations":
        """The annotations of images whose shorter side is `short` pixels, unless the longer one would exceed `longest`."""
        factor = torch.minimum(short / self.size.amin(-1), longest / self.size.amax(-1))[:, None]
        return Annotations(self.size * factor, self.boxes * factor[..., None], self.labels, self.valid, self.classes)


def coco() -> Annotations:
    """158 images of COCO val2017 (CC BY 4.0, COCO Consortium), chosen to cover all classes."""
    data = json.loads((ROOT / "catalog" / "data" / "coco_val2017.json").read_text())
    rows = [torch.tensor(image["boxes"], dtype=torch.float64).reshape(-1, 5) for image in data["images"]]
    table = pad_sequence(rows, batch_first=True, padding_value=-1.0)
    valid = table[..., 4] >= 0
    labels = torch.where(valid, table[..., 4].long(), len(data["classes"]))
    size = torch.tensor([image["size"] for image in data["images"]], dtype=torch.float64)
    return Annotations(size, torch.where(valid[..., None], table[..., :4], 0), labels, valid, data["classes"])
