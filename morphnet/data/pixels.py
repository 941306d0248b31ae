"""Normalisation of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Mean and standard deviation of the ImageNet training images, RGB in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normaliser:
    """uint8 images to float32 with mean 0 and standard deviation 1 per channel (of the data set)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, -1, 1, 1)
        self.shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return images * self.scale - self.shift


def statistics_of_counts(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in [0, 1], of channels in which value v comes ``counts[channel, v]`` times."""
    values = np.arange(256) / 255  # from counts: exact, and without a float copy of the images
    means, stds = [], []
    for count in counts:
        mean = float((count * values).sum() / count.sum())
        means.append(mean)
        stds.append(float(np.sqrt((count * (values - mean) ** 2).sum() / count.sum())))
    return tuple(means), tuple(stds)
