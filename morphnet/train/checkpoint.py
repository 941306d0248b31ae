"""The state of a phase in the middle of it, as one file."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from morphnet.store import write_whole


@dataclass
class Checkpoint:
    """Everything a phase needs to go on as if it had never stopped.

    Attributes:
        step: iterations done in the phase.
        network, optimizer: state dicts.
        running: sums of the epoch that is under way (loss, errors, images).
        history: one entry per evaluated epoch.
        seconds: training time so far, evaluation left out; ``seconds_evaluated`` the same at the last evaluation.
        resumed: how often the phase was continued.
    """

    step: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    running: tuple[float, float, int]
    history: list[dict[str, Any]]
    seconds: float
    seconds_evaluated: float
    resumed: int = 0


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes ``checkpoint``; a crash leaves the one before in place."""
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint in ``path``, or None if there is none. Nothing in the file is executed.

    Raises:
        ValueError: the file is damaged.
    """
    if not os.path.exists(path):
        return None
    try:
        return Checkpoint(**torch.load(path, "cpu", weights_only=True))
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to train this phase again from its start") from error
