"""Small photographs that are none: smooth random colours, as files and folders of a data set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    """Colours that vary as slowly as those of a photograph."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def content(image: Image.Image, format: str = "JPEG", **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **settings)
    return stream.getvalue()


def write_folder(root: Path, classes: int = 3, train: int = 8, val: int = 4, flat: bool = False) -> Path:
    """A data set in the layout of ImageNet: so many images in every class of ``train`` and ``val``."""
    for part, count in (("train", train), ("val", val)):
        for k in range(classes):
            for i in range(count):
                name = f"{part}_{k}_{i}.JPEG"
                path = root / part / name if flat and part == "val" else root / part / f"n{k}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content(picture(60 + 7 * i, 50 + 5 * k, seed=100 * k + i + 7 * (part == "val"))))
    return root
