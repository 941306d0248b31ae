"""The stretches of a phase: which steps were trained where, in which arithmetic, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Arithmetic:
    """What decides the bits of a step, beside what makes the phase: within one arithmetic they are the same.

    Attributes:
        device: ``cpu`` or ``cuda``.
        hardware: the processor's model.
        threads: of a CPU; None on a GPU.
        compiled: whether the step went through ``torch.compile``; ``cuda_graph``, whether it was captured.
        torch: its version.
    """

    device: str
    hardware: str
    precision: str
    threads: int | None
    compiled: bool
    cuda_graph: bool
    torch: str

    def __str__(self) -> str:
        how = [f"{self.threads} thread{'' if self.threads == 1 else 's'}"] if self.threads else []
        how += ["compiled"] * self.compiled + ["CUDA graph"] * self.cuda_graph
        return ", ".join([f"{self.precision} on {self.hardware}", *how, f"torch {self.torch}"])


class Stretches:
    """The stretches so far, as plain values for records and checkpoints.

    Each has ``from`` and ``to`` (steps done before and after it), ``seconds`` of training, ``images_per_second``,
    ``commit``, and the fields of its :class:`Arithmetic`.

    Args:
        done: those of a checkpoint.
    """

    def __init__(self, done: Sequence[Mapping[str, Any]] = ()) -> None:
        self.done = [dict(stretch) for stretch in done]

    def begin(self, step: int, arithmetic: Arithmetic, commit: Mapping[str, Any] | None) -> str | None:
        """From ``step`` on everything is done so; where that was otherwise before, returns a line that says so."""
        now = {**asdict(arithmetic), "commit": commit and dict(commit)}
        before = self.done[-1] if self.done else None
        if before is not None and all(before[key] == value for key, value in now.items()):
            return None
        self.done.append({"from": step, "to": step, **now, "seconds": 0.0, "images_per_second": None})
        if before is None:
            return None
        known = Arithmetic(**{key: before[key] for key in asdict(arithmetic)})
        return None if known == arithmetic else f"other arithmetic from here on: {arithmetic}; before: {known}"

    def trained(self, step: int, seconds: float, batch_size: int) -> None:
        """Training has come to ``step``, in ``seconds`` since the last call."""
        last = self.done[-1]
        last["to"], last["seconds"] = step, round(last["seconds"] + seconds, 3)
        images = (step - last["from"]) * batch_size
        last["images_per_second"] = round(images / last["seconds"], 1) if last["seconds"] else None
