"""The images of a morph: some to measure statistics on, some for the proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Batch = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Images:
    """Float64 batches on the parent's device, to measure on and for the proof; ``words`` describe them."""

    measured: list[Tensor]
    held_out: list[Tensor]
    held_out_labels: list[Tensor] | None
    words: str


def read_batches(
    device: torch.device,
    calibration: Iterable[Batch] | None,
    example_input: Tensor | None,
    *,
    channels: int | None,
    classes: int | None,
    input_size: Sequence[int] | None,
) -> Images | None:
    """The batches of a morph, or random inputs where there are none.

    Args:
        calibration: batches of images, or of (images, labels).
        example_input: without calibration, random normal inputs have its shape, at least four of them.
        channels, classes: of the network, if known, to check batches.
        input_size: ``(C, H, W)`` of random inputs without an example.

    Returns:
        None without calibration, example and size.
    """
    if calibration is None:
        if example_input is not None and (
            not isinstance(example_input, Tensor)
            or example_input.dim() != 4
            or (channels is not None and example_input.shape[1] != channels)
        ):
            got = tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
            raise ValueError(f"example_input: shape (N, {channels or 'C'}, H, W) is needed; got {got}")
        if example_input is None and input_size is None:
            return None
        size = (16, *(input_size or ()))
        if example_input is not None:
            size = (max(4, len(example_input)), *example_input.shape[1:])
        noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
        return Images([noise[0]], [noise[1]], None, f"{size[0]} random normal inputs of {size[1:]}; no data was given")
    images: list[Tensor] = []
    labels: list[Tensor] = []
    if not isinstance(calibration, Iterable):
        raise TypeError(f"calibration: an iterable of batches of images is needed; got {type(calibration).__name__}")
    if isinstance(calibration, Tensor):
        raise ValueError(
            "calibration: an iterable of batches is needed; of one tensor of images make images.split(128)"
        )
    for batch in calibration:
        x, y = _split_batch(batch, channels, classes)
        if images and x.shape[1:] != images[0].shape[1:]:
            raise ValueError(
                f"calibration: images of one size are needed; got {tuple(images[0].shape[1:])} and {tuple(x.shape[1:])}"
            )
        images.append(x.detach().to(device, torch.float64))
        if y is not None:
            labels.append(y.to(device))
    if len(images) == 1 and len(images[0]) >= 4:
        half = len(images[0]) // 2
        images = [images[0][:half], images[0][half:]]
        labels = [labels[0][:half], labels[0][half:]] if labels else []
    if len(images) < 2 or min(len(x) for x in images) < 2:
        raise ValueError(
            "calibration: at least two batches of two images are needed (or one of four), a half to measure on and "
            f"a half for the proof; got {len(images)} of {[len(x) for x in images]}"
        )
    kept = len(images) // 2
    held_out_labels = labels[-kept:] if len(labels) == len(images) else None
    others = len(images) - kept
    batches, rest = "batch" if kept == 1 else "batches", "other" if others == 1 else "others"
    words = f"{kept} {batches} of {len(images[-1])} images; statistics from {others} {rest}"
    return Images(images[:-kept], images[-kept:], held_out_labels, words)


def _split_batch(batch: Batch, channels: int | None, classes: int | None) -> tuple[Tensor, Tensor | None]:
    """Images, and labels or None; refuses what is not a batch."""
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (1, 2):
            raise ValueError(f"calibration: a batch is a tensor or (images, labels); got {len(batch)} values")
        x, y = batch[0], batch[1] if len(batch) == 2 else None
    else:
        x, y = batch, None
    wrong = not isinstance(x, Tensor) or x.dim() != 4 or x.numel() == 0
    if wrong or (channels is not None and x.shape[1] != channels):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"calibration: a batch of shape (N, {channels or 'C'}, H, W) is needed; got {got}")
    if not torch.is_floating_point(x):
        raise ValueError(f"calibration: normalised images of a floating dtype are needed; got {x.dtype}")
    if not torch.isfinite(x).all():
        raise ValueError("calibration: the images hold infinities or NaN")
    if y is not None:
        good = isinstance(y, Tensor) and y.shape == x.shape[:1] and y.dtype in (torch.int64, torch.int32, torch.uint8)
        if not good or int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes):
            known = "from 0" if classes is None else f"from 0 to {classes - 1}"
            raise ValueError(f"calibration: {len(x)} labels {known} are needed beside {len(x)} images")
        y = y.long()
    return x, y
