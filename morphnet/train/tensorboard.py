"""Scalars for TensorBoard: one writer per phase, the step going on from phase to phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: The tag of a metric: what it was measured on, then what it is. Others are their own.
TAGS = {
    "train_loss": "train/loss",
    "train_error": "train/error",
    "loss": "{split}/loss",
    "error": "{split}/error",
    "error_10_views": "{split}/error_10_views",
    "lr": "train/learning_rate",
    "images_per_second": "train/images_per_second",
}


class PhaseLog:
    """A :data:`~morphnet.train.phase.Log` that writes the scalars of one phase to ``folder``.

    If they cannot be written, one line says so and training goes on without them.

    Args:
        split: what errors are counted on, ``test`` or ``validation``.
        offset: iterations of the phases before this one.
        writes: False in every process but the first.
    """

    def __init__(self, folder: Path, split: str, offset: int, writes: bool = True) -> None:
        self.folder, self.split, self.offset = folder, split, offset
        self._writer: Any = None
        self._silent = not writes

    def __call__(self, step: int, metric: str, value: float) -> None:
        if self._silent:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # What an attempt that was killed wrote from here on is written again, so it is hidden.
                self._writer = SummaryWriter(str(self.folder), purge_step=self.offset + step)
            self._writer.add_scalar(TAGS.get(metric, metric).format(split=self.split), value, self.offset + step)
            self._writer.flush()  # what is on no disk when the process is killed is not logged again
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None and not self._silent:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._silent = True
        print(f"{self.folder}: TensorBoard's log cannot be written ({error.strerror}); training goes on", flush=True)
