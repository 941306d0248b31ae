"""Scalars for TensorBoard: one writer per phase, the step going on from phase to phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from morphnet.train.phase import Log

#: The tag of every metric: what it was measured on, then what it is.
TAGS = {
    "train_loss": "train/loss",
    "train_error": "train/error",
    "loss": "{split}/loss",
    "error": "{split}/error",
    "lr": "train/learning_rate",
    "images_per_second": "train/images_per_second",
}


@contextmanager
def phase_log(folder: Path, split: str, offset: int, resumed_at: int | None) -> Iterator[Log]:
    """A :data:`~morphnet.train.phase.Log` that writes to ``folder``.

    Args:
        split: what errors are counted on, ``test`` or ``validation``.
        offset: iterations of the phases before this one.
        resumed_at: the step of the checkpoint the phase goes on from; None where it begins.
    """
    from torch.utils.tensorboard import SummaryWriter

    # What an attempt that was killed wrote beyond its checkpoint is written again, so it is hidden.
    purge = offset if resumed_at is None else offset + resumed_at + 1
    writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=20)
    try:
        yield lambda step, metric, value: writer.add_scalar(TAGS[metric].format(split=split), value, offset + step)
    finally:
        writer.close()
