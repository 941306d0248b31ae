"""Policies of torchvision for training images: RandAugment, TrivialAugment, cutout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Names of ``data.policy``.
POLICIES = ("none", "randaugment", "trivialaugment", "cutout")


class Policy:
    """One of ``POLICIES`` on each image of a batch; the result is a function of (seed, phase, epoch, row, place).

    It runs on the host, image by image, because torchvision draws once for all images of a batch.

    Args:
        name: not ``none``.
        mean: of each channel, in [0, 1]; fills a cutout.
        key: (seed, phase).

    Source: Cubuk et al. 2020 (2 operations, magnitude 9); Mueller and Hutter 2021; DeVries and Taylor 2017, whose
    square is here a rectangle of a tenth to a third of the image (Zhong et al. 2020), in every second image.
    """

    def __init__(self, name: str, mean: Sequence[float], key: Sequence[object]) -> None:
        from torchvision.transforms import v2  # importing it takes a second

        fill = [round(255 * m) for m in mean]
        makers: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
            "randaugment": lambda: v2.RandAugment(fill=fill),
            "trivialaugment": lambda: v2.TrivialAugmentWide(fill=fill),
            "cutout": lambda: v2.RandomErasing(p=0.5, scale=(0.1, 0.33), value=fill),
        }
        self.transform, self.key = makers[name](), tuple(key)

    def __call__(self, images: Tensor, row: tuple[int, int], first: int) -> Tensor:
        """The varied images, uint8 ``(N, C, H, W)``.

        Args:
            row: (epoch, row).
            first: place of the first image in the whole batch.
        """
        digest = hashlib.sha256(repr((*self.key, *row, "policy")).encode()).digest()
        base = int.from_bytes(digest[:7], "big")
        with torch.random.fork_rng(devices=[]):
            varied = []
            for place, image in enumerate(images.cpu(), first):
                torch.manual_seed(base + place)
                varied.append(self.transform(image))
        return torch.stack(varied).to(images.device)
