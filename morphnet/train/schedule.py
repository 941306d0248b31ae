"""The learning rate as a pure function of progress."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from morphnet.config import AfterConfig, TrainConfig

#: Nobody trains for so many steps.
LONGEST = 1e12


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a phase: piecewise constant, or falling along a cosine.

    Attributes:
        steps: iterations in the phase.
        lr: the rate at its beginning.
        milestones: fractions of the phase at which the rate is multiplied by ``factor``.
        warmup_steps: iterations at the beginning with ``warmup_lr`` instead.
        decay: ``step``, at the milestones; or ``cosine``, from the end of the warm-up to 0 at the end of the phase.
        warmup: ``constant``, at ``warmup_lr``; or ``linear``, from there to ``lr``.

    Source: Sec. 4.2 and He et al. 2015: 64k iterations, milestones at 32k and 48k; Loshchilov and Hutter 2017 for
    the cosine.
    """

    steps: int
    lr: float
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    warmup_steps: int = 0
    warmup_lr: float = 0.01
    decay: str = "step"
    warmup: str = "constant"

    def rate(self, step: int) -> float:
        """The learning rate of iteration ``step``, counted from 0."""
        if step < self.warmup_steps:
            share = step / self.warmup_steps if self.warmup == "linear" else 0.0
            return self.warmup_lr + share * (self.lr - self.warmup_lr)
        if self.decay == "cosine":
            done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
            return 0.5 * self.lr * (1 + math.cos(math.pi * done))
        passed = sum(step >= round(m * self.steps) for m in self.milestones)
        return self.lr * self.factor**passed


def schedule_of(config: TrainConfig, index: int, steps_per_epoch: int) -> Schedule:
    """The schedule of phase ``index``: its own values, else those of ``after``, else of ``schedule`` and ``optim``.

    Raises:
        ValueError: not exactly one of ``steps`` and ``epochs`` is given, or the length is out of range.
    """
    phase, common = config.phases[index], config.schedule
    sources = (phase, config.after if index else AfterConfig(), common, config.optim)

    def first(key: str) -> Any:
        return next(value for source in sources if (value := getattr(source, key, None)) is not None)

    length = common if phase.steps is None and phase.epochs is None else phase
    given = f"phases.{index}: schedule.steps={length.steps}, schedule.epochs={length.epochs}"
    if (length.steps is None) == (length.epochs is None):
        advice = "give one, such as schedule.epochs=30" if length.steps is None else "set the other to null"
        raise ValueError(f"{given}: exactly one length is needed; {advice}")
    steps = float(length.epochs * steps_per_epoch if length.steps is None else length.steps)  # type: ignore[operator]
    if not 0 < steps < LONGEST:
        raise ValueError(f"{given}: a length above 0, below {LONGEST:.0e} steps, is needed")
    return Schedule(
        steps=max(1, round(steps * common.scale)),
        warmup_steps=round(first("warmup_steps") * common.scale),
        milestones=tuple(first("milestones")),
        **{key: first(key) for key in ("lr", "factor", "warmup_lr", "decay", "warmup")},
    )
