"""The state of a phase in the middle of it: a checksummed file, and the one before it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from morphnet.store import write_whole

_MAGIC = b"morphnet checkpoint "


@dataclass
class PhaseState:
    """How far a phase is, as plain values.

    A phase continues from it and the state dicts of what is trained: the order of the images and everything random
    within a step are functions of (seed, phase, step), see :func:`~morphnet.train.step.seed_step`.

    Attributes:
        step: iterations done in the phase.
        loss, errors, images: sums over training images since the last evaluation.
        history: one entry per evaluated epoch.
        predictions: of the last evaluation in ``history``.
        seconds: training time so far, evaluation left out; ``seconds_evaluated`` the same at the last evaluation.
        resumed: how often the phase was continued.
        stretches: see :func:`~morphnet.train.stretches.begin_stretch`.
    """

    step: int = 0
    loss: float = 0.0
    errors: int = 0
    images: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    predictions: Tensor | None = None
    seconds: float = 0.0
    seconds_evaluated: float = 0.0
    resumed: int = 0
    stretches: list[dict[str, Any]] = field(default_factory=list)


class CheckpointError(ValueError):
    """No checkpoint of a phase can be used."""


class CheckpointFiles:
    """The checkpoints of one phase: the last one, and the one before it.

    A file is a line with the SHA-256 of what follows, and what ``torch.save`` makes of plain values.

    Args:
        path: of the last one; the one before is ``<stem>.previous<suffix>``.
        identity: of the run and the phase, as text; files of another one are foreign.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.previous = path.with_name(f"{path.stem}.previous{path.suffix}")

    def save(self, state: PhaseState, trained: dict[str, Any]) -> None:
        """Writes a checkpoint; until it is whole on the disk the files of before stay as they are.

        Args:
            trained: state dicts of what is trained.

        Raises:
            OSError: it cannot be written, with the file named.
        """
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, "state": vars(state), "trained": trained}, buffer)
        content = buffer.getvalue()
        fresh = self.path.with_name(f"{self.path.stem}.next{self.path.suffix}")
        write_whole(fresh, _MAGIC + _digest(content) + b"\n" + content)
        if self.path.exists():
            os.replace(self.path, self.previous)
        os.replace(fresh, self.path)

    def load(self) -> tuple[PhaseState, dict[str, Any]] | None:
        """State and state dicts of the last whole checkpoint, or None without one; executes nothing in a file.

        Prints why a file cannot be used, and renames it to ``<name>.damaged``.

        Raises:
            CheckpointError: there are files, and none of them can be used.
        """
        complaints: list[str] = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                state, trained = _read(path, self.identity)
            except ValueError as error:
                complaints.append(f"{path}: {error}")
                continue
            for complaint in complaints:
                print(f"{complaint}; the checkpoint before it is used, of step {state.step:,}", flush=True)
                os.replace(self.path, self.path.with_name(f"{self.path.name}.damaged"))
            return state, trained
        if complaints:
            raise CheckpointError(
                "\n".join(complaints) + "\nno checkpoint of this phase can be used; delete these files to train it "
                "again from its start"
            )
        return None


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a finished phase."""
    for path in folder.glob("checkpoint*"):
        path.unlink()


def _read(path: Path, identity: str) -> tuple[PhaseState, dict[str, Any]]:
    line, _, content = path.read_bytes().partition(b"\n")
    if not line.startswith(_MAGIC):
        raise ValueError("no checkpoint of morphnet, or its beginning is damaged")
    if line != _MAGIC + _digest(content):
        raise ValueError(f"damaged: {len(content):,} bytes whose checksum is not the one they were written with")
    try:
        values = torch.load(io.BytesIO(content), "cpu", weights_only=True)
        owner, state, trained = values["identity"], PhaseState(**values["state"]), values["trained"]
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"not readable by this version ({str(error).splitlines()[0]})") from error
    if owner != identity:
        raise ValueError("it belongs to another run or phase, or was made by another number of processes")
    return state, trained


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
