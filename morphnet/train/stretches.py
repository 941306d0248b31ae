"""The stretches of a phase: which steps were trained where, in which arithmetic, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Arithmetic:
    """What decides the bits of a step beyond the settings of its phase.

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


def begin_stretch(
    stretches: list[dict[str, Any]], step: int, arithmetic: Arithmetic, commit: Mapping[str, Any] | None
) -> str:
    """Appends a stretch to ``stretches`` if ``arithmetic`` or ``commit`` is not that of the last one.

    A stretch has ``from`` and ``to`` (steps done before and after it), ``seconds`` of training,
    ``images_per_second``, ``commit``, and the fields of its :class:`Arithmetic`.

    Returns:
        A message if the arithmetic changes within the phase, else "".
    """
    now = {**asdict(arithmetic), "commit": commit and dict(commit)}
    last = stretches[-1] if stretches else None
    if last is not None and all(last[key] == value for key, value in now.items()):
        return ""
    stretches.append({"from": step, "to": step, **now, "seconds": 0.0, "images_per_second": None})
    before = arithmetic if last is None else Arithmetic(**{key: last[key] for key in asdict(arithmetic)})
    return "" if before == arithmetic else f"other arithmetic from here on: {arithmetic}; before: {before}"


def extend_stretch(stretches: list[dict[str, Any]], step: int, seconds: float, batch_size: int) -> None:
    """The last stretch reaches ``step``, after ``seconds`` of training in the whole phase so far."""
    last = stretches[-1]
    last["to"], last["seconds"] = step, round(seconds - sum(stretch["seconds"] for stretch in stretches[:-1]), 3)
    images = (step - last["from"]) * batch_size
    last["images_per_second"] = round(images / last["seconds"], 1) if last["seconds"] > 0 else None
