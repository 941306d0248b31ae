"""The state of a phase in the middle of it: a checksummed file, and the one before it."""

from __future__ import annotations

import hashlib
import io
import json
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
class Checkpoint:
    """Everything a phase needs to go on as if it had never stopped.

    The order of the images and everything random within a step are functions of (seed, phase, step), so that
    ``step`` stands for the state of all generators; see :func:`~morphnet.train.step.seed_step`.

    Attributes:
        step: iterations done in the phase.
        network, optimizer: state dicts.
        scaler: of the gradient scaler, in float16; else empty.
        stretch: sums since the last evaluation (loss, errors, images).
        history: one entry per evaluated epoch.
        seconds: training time so far, evaluation left out; ``seconds_evaluated`` the same at the last evaluation.
        resumed: how often the phase was continued.
        average: state dict of the averaged network; empty where there is none.
        stretches: see :class:`~morphnet.train.stretches.Stretches`.
        predictions: of the last evaluation in ``history``; checkpoints of earlier versions have none.
    """

    step: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    stretch: tuple[float, int, int]
    history: list[dict[str, Any]]
    seconds: float
    seconds_evaluated: float
    resumed: int = 0
    average: dict[str, Any] = field(default_factory=dict)
    stretches: list[dict[str, Any]] = field(default_factory=list)
    predictions: Tensor | None = None


class CheckpointError(ValueError):
    """No checkpoint of a phase can be used."""


class CheckpointFiles:
    """The checkpoints of one phase: the last one, and the one before it.

    A file is the SHA-256 of all that follows it, a line of JSON, and what ``torch.save`` makes of plain values.

    Args:
        path: of the last one; the one before is ``<stem>.previous<suffix>``.
        identity: of the run and the phase, as text; files of another one are foreign.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.previous = path.with_name(f"{path.stem}.previous{path.suffix}")

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes ``checkpoint``; until it is whole on the disk the files that were there stay as they are.

        Raises:
            OSError: it cannot be written, with the file named.
        """
        buffer = io.BytesIO()
        torch.save(vars(checkpoint), buffer)
        head = json.dumps({"format": 1, "identity": self.identity})
        content = head.encode() + b"\n" + buffer.getvalue()
        fresh = self.path.with_name(f"{self.path.stem}.next{self.path.suffix}")
        write_whole(fresh, _MAGIC + _digest(content) + b"\n" + content)
        if self.path.exists():
            os.replace(self.path, self.previous)
        os.replace(fresh, self.path)

    def load(self) -> Checkpoint | None:
        """The last whole checkpoint, or None if there is none; nothing in a file is executed.

        Of a file that cannot be used the reason is printed, and it is put aside as ``<name>.damaged``.

        Raises:
            CheckpointError: there are files, and none of them can be used.
        """
        complaints: list[str] = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                checkpoint = _read(path, self.identity)
            except ValueError as error:
                complaints.append(f"{path}: {error}")
                continue
            for complaint in complaints:
                print(f"{complaint}; the checkpoint before it is used, of step {checkpoint.step:,}", flush=True)
                os.replace(self.path, self.path.with_name(f"{self.path.name}.damaged"))
            return checkpoint
        if complaints:
            raise CheckpointError(
                "\n".join(complaints) + "\nno checkpoint of this phase can be used; delete these files to train it "
                "again from its start"
            )
        return None


def remove_checkpoints(folder: Path) -> None:
    """Takes away the checkpoints of a phase that is done."""
    for path in folder.glob("checkpoint*"):
        path.unlink()


def _read(path: Path, identity: str) -> Checkpoint:
    line, _, content = path.read_bytes().partition(b"\n")
    if not line.startswith(_MAGIC):
        raise ValueError("no checkpoint of morphnet, or its beginning is damaged")
    if line != _MAGIC + _digest(content):
        raise ValueError(f"damaged: {len(content):,} bytes whose checksum is not the one they were written with")
    head, _, payload = content.partition(b"\n")
    if json.loads(head)["identity"] != identity:
        raise ValueError("it belongs to another run or phase, or was made by another number of processes")
    try:
        return Checkpoint(**torch.load(io.BytesIO(payload), "cpu", weights_only=True))
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"not readable by this version ({str(error).splitlines()[0]})") from error


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
