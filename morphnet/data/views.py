"""Views of an image: square windows of it, resized.

The image is resized only as far as the window reaches. Fewer than one value in a thousand differs, by 1 of 255, from
torchvision's ``Resize`` (bilinear, with antialiasing) and crops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

#: In larger resized images each window is resized by itself: a strip of 60,000 x 1 pixels would take gigabytes.
LARGE_PIXELS = 4_000_000


def resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(height, width) of an image of ``size`` whose shorter side is made ``shorter``, as torchvision rounds it."""
    height, width = size
    if width <= height:
        return int(shorter * height / width), shorter
    return shorter, int(shorter * width / height)


def random_view(image: Tensor, shorter: int, position: tuple[float, float], mirrored: bool, size: int) -> Tensor:
    """A window of ``size`` pixels at ``position`` in ``image``, whose shorter side is made ``shorter``.

    Args:
        image: uint8 of shape (3, H, W).
        position: (down, right) in [0, 1): each place is as likely as any other if these are uniform.

    Returns:
        uint8 of shape (3, size, size).

    Source: Sec. 4.4, with ``shorter`` from [256, 480] and 224 pixels.
    """
    height, width = resized(_size(image), shorter)
    top, left = int(position[0] * (height - size + 1)), int(position[1] * (width - size + 1))
    (view,) = _windows(image, (height, width), [(top, left)], size)
    return view.flip(2) if mirrored else view


def centre_view(image: Tensor, shorter: int, size: int) -> Tensor:
    """The window in the middle of ``image``, whose shorter side is made ``shorter``: uint8, (3, size, size)."""
    whole = resized(_size(image), shorter)
    return _windows(image, whole, [_centre(whole, size)], size)[0]


def ten_views(image: Tensor, shorter: int, size: int) -> Tensor:
    """Four corners and centre, then the same five mirrored: uint8, (10, 3, size, size).

    Source: Sec. 4.4 and Krizhevsky et al. 2012.
    """
    height, width = whole = resized(_size(image), shorter)
    corners = [(top, left) for top in (0, height - size) for left in (0, width - size)]
    views = torch.stack(_windows(image, whole, [*corners, _centre(whole, size)], size))
    return torch.cat([views, views.flip(3)])


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _centre(whole: tuple[int, int], size: int) -> tuple[int, int]:
    return round((whole[0] - size) / 2), round((whole[1] - size) / 2)


def _windows(image: Tensor, whole: tuple[int, int], corners: Sequence[tuple[int, int]], size: int) -> list[Tensor]:
    """Windows of ``image``, resized to (height, width) ``whole``, with top left ``corners``."""
    if whole[0] * whole[1] > LARGE_PIXELS:
        return [_window_of_large(image, whole, corner, size) for corner in corners]
    factors, reach = [], []
    for side, to, corner in zip(_size(image), whole, zip(*corners, strict=True), strict=True):
        # The pixels that the filter needs for the last row or column, and one more.
        needed = (max(corner) + size) * side / to + max(1, side / to) + 1
        factor = to / side * (1 + 1e-9)
        stop = min(side, math.ceil(needed))
        if to != side and int(stop * factor) == stop:
            stop = side  # PyTorch would not resize a side that keeps its length
        factors.append(factor)
        reach.append(stop)
    part = image[:, : reach[0], : reach[1]]
    # With the stride of a batch of several images PyTorch sees the channels-last layout, and is twice as fast.
    part = part.as_strided((1, *part.shape), (image.numel(), *part.stride()))
    scaled = F.interpolate(part, scale_factor=tuple(factors), mode="bilinear", antialias=True)[0]
    return [scaled[:, top : top + size, left : left + size] for top, left in corners]


def _window_of_large(image: Tensor, whole: tuple[int, int], corner: tuple[int, int], size: int) -> Tensor:
    """The same by Pillow, which resizes a box alone; slower for most images."""
    (height, width), (top, left) = _size(image), corner
    y, x = height / whole[0], width / whole[1]
    box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
    window = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(window)).permute(2, 0, 1)
