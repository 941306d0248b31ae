"""What a network sees of an image: a square window of it, at a size of its own.

Only the window is resized. Pillow's filter takes what it needs of the pixels around it, so that the result is what
resizing the whole image and cutting the window out gives (torchvision's ``Resize`` and crops), for less work.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image


def resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) of an image of ``size`` whose shorter side is made ``shorter``, as torchvision rounds it."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def random_view(
    image: Image.Image, shorter: int, position: tuple[float, float], mirrored: bool, size: int
) -> np.ndarray:
    """A window of ``size`` pixels at ``position`` in ``image``, whose shorter side is made ``shorter``.

    Args:
        position: (down, right) in [0, 1): each place is as likely as any other if these are uniform.

    Returns:
        uint8 of shape (size, size, 3).

    Source: Sec. 4.4, with ``shorter`` from [256, 480] and 224 pixels.
    """
    width, height = resized(image.size, shorter)
    top, left = (int(at * (side - size + 1)) for at, side in zip(position, (height, width), strict=True))
    found = _window(image, (width, height), top, left, size)
    return found[:, ::-1] if mirrored else found


def centre_view(image: Image.Image, shorter: int, size: int) -> np.ndarray:
    """The window in the middle of ``image``, whose shorter side is made ``shorter``: uint8, (size, size, 3)."""
    width, height = resized(image.size, shorter)
    return _window(image, (width, height), round((height - size) / 2), round((width - size) / 2), size)


def ten_views(image: Image.Image, shorter: int, size: int) -> Iterator[np.ndarray]:
    """Four corners and centre, then the same five mirrored: each uint8, (size, size, 3).

    Source: Sec. 4.4 and Krizhevsky et al. 2012.
    """
    width, height = resized(image.size, shorter)
    corners = [(top, left) for top in (0, height - size) for left in (0, width - size)]
    views = [_window(image, (width, height), *corner, size) for corner in corners]
    views.append(centre_view(image, shorter, size))
    yield from views
    for view in views:
        yield view[:, ::-1]


def _window(image: Image.Image, resized_to: tuple[int, int], top: int, left: int, size: int) -> np.ndarray:
    """Rows and columns from ``top`` and ``left`` on of ``image`` resized to (width, height) ``resized_to``."""
    x, y = image.width / resized_to[0], image.height / resized_to[1]
    right, bottom = min((left + size) * x, image.width), min((top + size) * y, image.height)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=(left * x, top * y, right, bottom)))
