"""The learning rate as a pure function of progress."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: How the rate falls, and how it begins.
DECAYS, WARMUPS = ("step", "cosine"), ("constant", "linear")
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

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a phase of {self.steps} steps: at least 1 is needed")
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                f"schedule.milestones={list(self.milestones)}: fractions of the phase, between 0 and 1 and "
                "in order, are needed"
            )
        for name, choice, expected in (
            ("schedule.decay", self.decay, DECAYS),
            ("schedule.warmup", self.warmup, WARMUPS),
        ):
            if choice not in expected:
                raise ValueError(f"{name}={choice!r}; expected {' or '.join(expected)}")
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps={self.warmup_steps}: a number from 0 is needed")
        for key, value in (
            ("optim.lr", self.lr),
            ("schedule.warmup_lr", self.warmup_lr),
            ("schedule.factor", self.factor),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{key}={value}: a positive number is needed")

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


def scaled_schedule(
    *,
    steps: int | None,
    epochs: float | None,
    steps_per_epoch: int,
    scale: float,
    lr: float,
    milestones: tuple[float, ...],
    factor: float,
    warmup_steps: int,
    warmup_lr: float,
    decay: str = "step",
    warmup: str = "constant",
) -> Schedule:
    """The schedule of a phase whose length is given in steps or in epochs; ``scale`` multiplies every length.

    Raises:
        ValueError: not exactly one of ``steps`` and ``epochs`` is given, or a value is out of range.
    """
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"schedule.steps={steps}, schedule.epochs={epochs}: exactly one length is needed; "
            + ("give one, such as schedule.epochs=30" if steps is None else "set the other to null")
        )
    if not 0 < scale < float("inf"):
        raise ValueError(f"schedule.scale={scale}: a positive number is needed; 0.1 makes every phase a tenth as long")
    length = float(steps) if steps is not None else float(epochs or 0) * steps_per_epoch
    if not 0 < length < LONGEST:
        raise ValueError(
            f"schedule.steps={steps}, schedule.epochs={epochs}: a length above 0, below {LONGEST:.0e} steps, is needed"
        )
    return Schedule(
        max(1, round(length * scale)),
        lr,
        tuple(milestones),
        factor,
        round(warmup_steps * scale),
        warmup_lr,
        decay,
        warmup,
    )
