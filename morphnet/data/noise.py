"""Noise in the shape of data sets, for planning without their files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from morphnet.data.decoding import decode
from morphnet.data.files import FileSplit, Unreadable, Viewing
from morphnet.data.images import ImageData, Split

#: Training and validation images of ILSVRC 2012, and its classes.
IMAGENET_IMAGES, IMAGENET_CLASSES = (1_281_167, 50_000), 1000


def like_cifar(name: str) -> ImageData:
    """Noise in the shape of CIFAR-10 or -100."""
    generator, classes = torch.Generator().manual_seed(0), {"cifar10": 10, "cifar100": 100}[name]
    train, test = (
        Split(
            torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
            torch.arange(count) % classes,
        )
        for count in (50_000, 10_000)
    )
    return ImageData(name, train, test, tuple(map(str, range(classes))), (0.0,) * 3, (1.0,) * 3)


@dataclass(frozen=True)
class _OnePhotograph(FileSplit):
    """A split whose images all have the same content, without files."""

    content: bytes = b""

    def read(self, index: int) -> Tensor:
        return decode(self.content, self.viewing.exif)


def like_imagenet(viewing: Viewing, workers: int) -> ImageData:
    """As many images and classes as ImageNet has, each the same JPEG of smooth noise: 500 x 375 pixels, 110 kB."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)

    def split(count: int) -> FileSplit:
        labels = torch.arange(count) % IMAGENET_CLASSES
        return _OnePhotograph(Path(), np.zeros(count, "S1"), labels, viewing, workers, content=stream.getvalue())

    names = tuple(map(str, range(IMAGENET_CLASSES)))
    train, test = (split(count) for count in IMAGENET_IMAGES)
    return ImageData("imagenet", train, test, names, (0.0,) * 3, (1.0,) * 3, unreadable=Unreadable())
