"""The phases of an experiment, in the order they are run: parent, children, controls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from morphnet.config import MorphConfig, PhaseConfig, ScheduleConfig
from morphnet.data.batches import check_calibration
from morphnet.morph import BN_SETTINGS, plan_morph
from morphnet.nn.resnet import Architecture
from morphnet.spec import parse_spec
from morphnet.train.schedule import Schedule, scaled_schedule

Role = Literal["parent", "child", "control"]

#: Fair controls: the parent trained on for the same phases, as it is or with parametric activations.
CONTROLS = {"relu": "parent trained on", "prelu": "PReLU parent trained on"}


@dataclass(frozen=True)
class PhasePlan:
    """One phase.

    Attributes:
        name: unique within the run; with ``index`` it names the folder.
        label: in words, for tables.
        source: index of the phase whose network this one starts from; None for the parent.
        morph: the spec that network is morphed to first.
        parametric: its activations are made parametric first.
        schedule: None: the network is evaluated and not trained.
        offset: iterations of the phases it comes from.
    """

    index: int
    name: str
    label: str
    role: Role
    source: int | None
    morph: str | None
    parametric: bool
    schedule: Schedule | None
    offset: int

    @property
    def folder(self) -> str:
        return f"{self.index}_{self.name}"


def plan_phases(
    phases: Sequence[PhaseConfig],
    controls: Sequence[str],
    schedule: ScheduleConfig,
    lr: float,
    steps_per_epoch: int,
    parent: Architecture,
    morphing: MorphConfig,
    parent_given: bool,
    train_images: int,
) -> tuple[PhasePlan, ...]:
    """Everything a run will do, with every spec and schedule checked.

    Args:
        parent: the architecture of the parent, trained here or given.
        train_images: how many there are to measure on.
        parent_given: the first phase's network comes trained, so it is only evaluated.

    Raises:
        ValueError: phases, controls, specs or schedules are wrong.
    """
    if not phases:
        raise ValueError("phases is empty: at least the parent is needed, such as phases=[{morph: null}]")
    if phases[0].morph is not None:
        raise ValueError(
            f"phases.0.morph={phases[0].morph!r}: the first phase is the parent, so its morph must be null"
        )
    for i, phase in enumerate(phases[1:], 1):
        if phase.morph is None:
            raise ValueError(
                f"phases.{i}.morph is null: every phase after the first morphs; for the parent trained on, see controls"
            )
    for i, phase in enumerate(phases):
        if phase.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", phase.name):
            raise ValueError(
                f"phases.{i}.name={phase.name!r}: letters, digits, '_', '-' and '.' are needed; it names a folder"
            )
    if controls and len(phases) == 1:
        raise ValueError(f"controls={list(controls)}: there is no phase after the parent to compare them with")
    for control in controls:
        if control not in CONTROLS:
            raise ValueError(f"controls: unknown {control!r}; expected {' or '.join(CONTROLS)}")
    if len(set(controls)) != len(controls):
        raise ValueError(f"controls={list(controls)}: one is named twice")
    if morphing.bn not in BN_SETTINGS:
        raise ValueError(f"morphing.bn={morphing.bn!r}; expected one of {', '.join(BN_SETTINGS)}")
    check_calibration("morphing.calibration_batches", morphing.calibration_batches, train_images)
    architecture = parent
    for i, phase in enumerate(phases[1:], 1):
        try:
            architecture = plan_morph(
                architecture,
                parse_spec(phase.morph or ""),
                split=morphing.split,
                width=morphing.width,
                padding=morphing.padding,  # type: ignore[arg-type]
                activation=morphing.activation,
            ).child
        except ValueError as error:
            raise ValueError(f"phases.{i}.morph={phase.morph}: {error}") from error

    lengths = [_schedule(i, phase, schedule, lr, steps_per_epoch) for i, phase in enumerate(phases)]
    planned: list[PhasePlan] = []

    def add(
        name: str,
        label: str,
        role: Role,
        source: int | None,
        morph: str | None,
        parametric: bool,
        length: Schedule | None,
    ) -> int:
        before = planned[source] if source is not None else None
        trained = before.schedule.steps if before is not None and before.schedule is not None else 0
        offset = before.offset + trained if before is not None else 0
        planned.append(PhasePlan(len(planned), name, label, role, source, morph, parametric, length, offset))
        return len(planned) - 1

    first = phases[0].name or "parent"
    add(first, "parent", "parent", None, None, False, None if parent_given else lengths[0])
    source = 0
    for phase, length in zip(phases[1:], lengths[1:], strict=True):
        source = add(phase.name or str(phase.morph), str(phase.morph), "child", source, phase.morph, False, length)
    for control in controls:
        source = 0
        for i, length in enumerate(lengths[1:], 1):
            name = f"{control}_trained_on" + (f"_{i}" if len(lengths) > 2 else "")
            label = CONTROLS[control] + (f", phase {i}" if len(lengths) > 2 else "")
            source = add(name, label, "control", source, None, control == "prelu" and source == 0, length)
    return tuple(planned)


def _schedule(index: int, phase: PhaseConfig, default: ScheduleConfig, lr: float, steps_per_epoch: int) -> Schedule:
    own_length = phase.steps is not None or phase.epochs is not None

    def choose(own: float | None, common: float) -> float:
        return common if own is None else own

    try:
        return scaled_schedule(
            steps=phase.steps if own_length else default.steps,
            epochs=phase.epochs if own_length else default.epochs,
            steps_per_epoch=steps_per_epoch,
            scale=default.scale,
            lr=choose(phase.lr, lr),
            milestones=tuple(default.milestones if phase.milestones is None else phase.milestones),
            factor=choose(phase.factor, default.factor),
            warmup_steps=int(choose(phase.warmup_steps, default.warmup_steps)),
            warmup_lr=choose(phase.warmup_lr, default.warmup_lr),
        )
    except ValueError as error:
        raise ValueError(f"phases.{index}: {error}") from error
