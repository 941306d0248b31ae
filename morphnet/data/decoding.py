"""Image files as pixels: whatever can be decoded is, and what cannot says why."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

#: Images of more pixels are decoded at a half, quarter or eighth of their size, if they are JPEGs: a photograph of a
#: hundred million pixels would take a worker's memory and seconds, for a view of 224 x 224.
LARGE_PIXELS = 25_000_000
#: To which neither side of such an image is reduced.
LARGE_SIDE = 1024


class UnreadableError(ValueError):
    """An image file that cannot be decoded, and why."""


def decode(content: bytes, exif: bool = False) -> Tensor:
    """The image in the bytes of a file: JPEG, PNG, or whatever else Pillow reads.

    Gray, CMYK and palette images are converted. Most JPEGs go through torchvision's decoder, the faster one;
    the others, and what that one refuses, through Pillow.

    Args:
        exif: turn the image as its EXIF orientation says. ImageNet's networks were trained and are compared without.

    Returns:
        RGB, uint8 of shape (3, H, W), in memory pixel by pixel.

    Raises:
        UnreadableError: it is no image, or cut off, or of more than 178 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd metadata, one for each file
            image = Image.open(io.BytesIO(content))
            pixels = image.width * image.height
            plain = image.format == "JPEG" and image.mode in ("L", "RGB") and pixels <= LARGE_PIXELS
            if plain and not (exif and image.getexif().get(0x0112, 1) != 1):
                try:
                    return _decode_jpeg(content)
                except RuntimeError:  # Pillow knows some that it does not, or says better what is wrong
                    pass
            if pixels > LARGE_PIXELS:
                image.draft(image.mode, (LARGE_SIDE, LARGE_SIDE))
            image.load()
            upright = ImageOps.exif_transpose(image) if exif else image
            return torch.from_numpy(np.array(_of_bytes(upright, image.format).convert("RGB"))).permute(2, 0, 1)
    except (Exception, Image.DecompressionBombError) as error:  # whatever a decoder stumbles over
        if isinstance(error, MemoryError):
            raise
        words = "no image in a format that Pillow reads" if isinstance(error, Image.UnidentifiedImageError) else error
        raise UnreadableError(str(words) or type(error).__name__) from error


def _of_bytes(image: Image.Image, format: str | None) -> Image.Image:
    """``image``; gray of 16 bits a pixel with the upper 8 of them, where Pillow would cut off what is above 255."""
    if image.mode != "I" and image.mode[:2] not in ("I;", "F"):
        return image
    values = np.array(image)
    whole = values.dtype.kind in "iu" and values.min() >= 0
    if whole and image.mode == "I" and format == "TIFF" and values.max() <= 0xFF:  # bytes, stored in 32 bits each
        return Image.fromarray(values.astype(np.uint8))
    if not whole or values.max() > 0xFFFF or (image.mode == "I" and format == "TIFF"):
        raise ValueError(f"its values go from {values.min()} to {values.max()}: 8 or 16 bits a channel are needed")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _decode_jpeg(content: bytes) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    found: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return found
