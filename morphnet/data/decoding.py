"""Decoding of image files."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

#: JPEGs of more pixels are decoded at a half, quarter or eighth of their size, to save time and memory.
LARGE_PIXELS = 25_000_000
#: Each side of such an image keeps at least so many pixels.
LARGE_SIDE = 1024


class UnreadableError(ValueError):
    """An image file cannot be decoded; the message says why."""


def decode(content: bytes, exif: bool = False) -> Tensor:
    """Decodes the bytes of an image file: JPEG, PNG, or another format that Pillow reads.

    Gray, CMYK and palette images are converted. torchvision decodes most JPEGs, because it is faster; Pillow the rest.

    Args:
        exif: turn the image by its EXIF orientation. ImageNet's networks were trained without.

    Returns:
        RGB, uint8 of shape (3, H, W), channels last in memory.

    Raises:
        UnreadableError: it is not an image, is cut off, or has more than 178 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            pixels = image.width * image.height
            plain = image.format == "JPEG" and image.mode in ("L", "RGB") and pixels <= LARGE_PIXELS
            if plain and not (exif and image.getexif().get(0x0112, 1) != 1):
                try:
                    from torchvision.io import ImageReadMode, decode_jpeg

                    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                    return decode_jpeg(data, mode=ImageReadMode.RGB)  # type: ignore[no-any-return]
                except RuntimeError:  # Pillow decodes some of these, or has a better message
                    pass
            if pixels > LARGE_PIXELS:
                image.draft(image.mode, (LARGE_SIDE, LARGE_SIDE))
            image.load()
            upright = ImageOps.exif_transpose(image) if exif else image
            return torch.from_numpy(np.array(_of_bytes(upright, image.format).convert("RGB"))).permute(2, 0, 1)
    except (Exception, Image.DecompressionBombError) as error:
        if isinstance(error, MemoryError):
            raise
        words = "no image in a format that Pillow reads" if isinstance(error, Image.UnidentifiedImageError) else error
        raise UnreadableError(str(words) or type(error).__name__) from error


def _of_bytes(image: Image.Image, format: str | None) -> Image.Image:
    """``image``, with the upper 8 bits of gray of 16 bits a pixel: Pillow would clip values above 255."""
    if image.mode != "I" and image.mode[:2] not in ("I;", "F"):
        return image
    values = np.array(image)
    whole = values.dtype.kind in "iu" and values.min() >= 0
    if whole and image.mode == "I" and format == "TIFF" and values.max() <= 0xFF:  # bytes, stored in 32 bits each
        return Image.fromarray(values.astype(np.uint8))
    if not whole or values.max() > 0xFFFF or (image.mode == "I" and format == "TIFF"):
        raise ValueError(f"its values go from {values.min()} to {values.max()}: 8 or 16 bits a channel are needed")
    return Image.fromarray((values >> 8).astype(np.uint8))
