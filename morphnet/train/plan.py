"""The phases of an experiment, in the order they are run: parent, children, controls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from morphnet.config import AfterConfig, MorphConfig, PhaseConfig, ScheduleConfig
from morphnet.data.batches import check_calibration
from morphnet.morph import BN_SETTINGS, LAYER_BN_SETTINGS, Operation, find_targets, plan_morph, words
from morphnet.nn.resnet import Architecture, bare
from morphnet.spec import parse_spec
from morphnet.train.handover import Handover
from morphnet.train.schedule import Schedule, scaled_schedule

Role = Literal["parent", "child", "control"]

#: Fair controls: the parent trained on for the same phases, as it is or with parametric activations; the same child
#: with its new slopes held at 1, so that its modules stay linear; with identities, or with random weights, in place of
#: solved filters; the same child trained from random weights alone, for as long as its last phase, or as long as all
#: phases together. The order numbers their folders.
CONTROLS = {
    "relu": "parent trained on",
    "prelu": "PReLU parent trained on",
    "linear": "child with linear modules (slopes held at 1)",
    "net2net": "child by identity insert (Net2Net)",
    "random": "child by random insert",
    "scratch": "child from scratch, the last phase's budget",
    "scratch_total": "child from scratch, the budget of all phases",
}
#: Those that grow as the child does; and those that start anew with the network of the last child.
INSERTS, ANEW = ("net2net", "random"), ("scratch", "scratch_total")


@dataclass(frozen=True)
class PhasePlan:
    """One phase.

    Attributes:
        name: unique within the run; with ``index`` it names the folder.
        label: in words, for tables.
        control: of ``CONTROLS`` the one it is; ``beside``, the index of the child it is compared with; None for others.
        source: the phase whose network this one starts from, or with ``scratch`` has the shape of; None for the parent.
        morph: the spec that network is morphed to first.
        layers: or the layers that are morphed first, by pattern, and how.
        method: how filters are found: ``auto``, ``als`` or ``net2net``; ``random`` for new weights that keep no
            function, ``scratch`` for random weights everywhere.
        parametric: its activations are made parametric first.
        linear: the slopes that morphs have brought since the parent are held at 1.
        schedule: None: the network is evaluated and not trained.
        offset: iterations of the phases it comes from.
        is_idle: all that its morph asks for is there already.
        handover: how it starts from its source, beside the morph.
    """

    index: int
    name: str
    label: str
    role: Role
    source: PhasePlan | None
    morph: str | None
    parametric: bool
    schedule: Schedule | None
    offset: int
    layers: Mapping[str, Operation] | None = None
    method: str = "auto"
    handover: Handover = field(default_factory=Handover)
    is_idle: bool = False
    linear: bool = False
    control: str | None = None
    beside: int | None = None

    @property
    def depth(self) -> int:
        """How many phases its network has been through before; none for a network that starts from random weights."""
        return 0 if self.source is None or self.method == "scratch" else 1 + self.source.depth

    @property
    def folder(self) -> str:
        return f"{self.index}_{self.name}"

    @property
    def grows(self) -> bool:
        """Whether the phase begins with a morph."""
        return self.morph is not None or self.layers is not None

    @property
    def is_proved(self) -> bool:
        """Whether what it begins with computes what its source computes, which is proved."""
        return self.grows and self.method != "random"


def plan_phases(
    phases: Sequence[PhaseConfig],
    controls: Sequence[str],
    schedule: ScheduleConfig,
    lr: float,
    steps_per_epoch: int,
    parent: Architecture | nn.Module,
    morphing: MorphConfig,
    parent_given: bool,
    train_images: int,
    layers: Sequence[Mapping[str, Operation] | None] = (),
    after: AfterConfig | None = None,
    trains_given: bool = False,
) -> tuple[PhasePlan, ...]:
    """Everything a run will do, with every spec and schedule checked.

    Args:
        parent: the architecture of the parent, trained here or given; or a given parent of another class.
        train_images: how many there are to measure on.
        parent_given: the first phase's network comes trained, so it is only evaluated.
        layers: for each phase the layers it morphs, by pattern, and how; None for none.
        after: what the phases after the first do otherwise.
        trains_given: the given parent is trained on first, as it has a new last layer.

    Raises:
        ValueError: phases, controls, specs or schedules are wrong.
    """
    if not phases:
        raise ValueError("phases is empty: at least the parent is needed, such as phases=[{morph: null}]")
    layers = list(layers) or [None] * len(phases)
    if phases[0].morph is not None or layers[0]:
        given = f"morph={phases[0].morph!r}" if layers[0] is None else f"target={phases[0].target!r}"
        raise ValueError(f"phases.0.{given}: the first phase is the parent, so it morphs nothing")
    for i, phase in enumerate(phases):
        if phase.morph is not None and layers[i]:
            raise ValueError(f"phases.{i}: morph={phase.morph} or target={phase.target}, not both")
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
    if morphing.layers.bn not in LAYER_BN_SETTINGS:
        known = ", ".join(LAYER_BN_SETTINGS)
        raise ValueError(f"morphing.layers.bn={morphing.layers.bn!r}; expected one of {known}")
    check_calibration("morphing.calibration_batches", morphing.calibration_batches, train_images)
    if "net2net" in controls:
        other = [i for i, found in enumerate(layers) if found and phases[i].deepen is None]
        if other or not any(phase.morph or phase.deepen is not None for phase in phases):
            which = f"phases.{other[0]} has another morph" if other else "no phase has one"
            raise ValueError(
                f"controls=[net2net] goes with specs and deepen, where an identity can be inserted; {which}"
            )
    if "prelu" in controls and isinstance(parent, nn.Module):
        raise ValueError(f"controls=[prelu] needs one of morphnet's ResNets; the parent is a {type(parent).__name__}")
    if "random" in controls:
        other = [i for i, phase in enumerate(phases) if phase.widen is not None or phase.enlarge is not None]
        if other or not any(phase.morph or found for phase, found in zip(phases, layers, strict=True)):
            which = f"phases.{other[0]} has another morph" if other else "no phase has one"
            raise ValueError(f"controls=[random] goes with specs, modules and deepen, which bring new layers; {which}")
    if "scratch_total" in controls and parent_given and not trains_given:
        raise ValueError(
            "controls=[scratch_total] needs a parent that is trained here: how long the given one was trained is not "
            "known; give controls=[scratch]"
        )
    first_layers = next((i for i, found in enumerate(layers) if found), None)
    if first_layers is not None and isinstance(parent, nn.Module):
        _check_targets(parent, layers[first_layers], first_layers)
    architecture, idle = parent, set()
    for i, phase in enumerate(phases[1:], 1):
        if i == first_layers and not isinstance(architecture, nn.Module) and not parent_given:
            _check_targets(bare(architecture), layers[i], i)
        if phase.morph is None:
            continue
        if isinstance(architecture, nn.Module):
            raise ValueError(
                f"phases.{i}.morph={phase.morph}: a spec needs one of morphnet's ResNets, and the parent is a "
                f"{type(parent).__name__}: name layers by target= instead"
            )
        before = architecture
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
        if architecture == before:
            idle.add(i)
    modules = any(found and p.widen is None and p.enlarge is None for p, found in zip(phases, layers, strict=True))
    if "linear" in controls and not modules and _branches(architecture) <= _branches(parent):
        raise ValueError(
            "controls=[linear] holds the slopes that specs, modules and deepen bring, and no phase brings one: larger "
            "kernels of a branch that the parent has, wider layers and training on do not; leave linear out"
        )

    after = after or AfterConfig()
    handover = Handover(after.kept_lr, after.momentum, after.shrink, after.perturb)
    lengths = [
        _schedule(i, phase, schedule, after if i else AfterConfig(), lr, steps_per_epoch)
        for i, phase in enumerate(phases)
    ]
    planned: list[PhasePlan] = []

    def add(plan: PhasePlan) -> PhasePlan:
        planned.append(plan)
        return plan

    first = phases[0].name or "parent"
    length = None if parent_given and not trains_given else lengths[0]
    source = parent_plan = add(PhasePlan(0, first, "parent", "parent", None, None, False, length, 0))
    changes = [(phase.morph, found) for phase, found in zip(phases, layers, strict=True)]
    for i, phase in enumerate(phases[1:], 1):
        name, label = _names(phase, changes[i][1])
        method = morphing.layers.method if changes[i][1] else "auto"
        child = PhasePlan(i, phase.name or name, label, "child", source, changes[i][0], False, lengths[i], 0)
        child = replace(child, layers=changes[i][1], method=method, handover=handover, is_idle=i in idle)
        source = add(_after(child))
    children = planned[1:]
    for control in controls:
        numbers = control_numbers(control, len(phases))
        if control in ANEW:
            trained = sum(length.steps for length in lengths)
            anew = replace(lengths[0], steps=lengths[-1].steps if control == "scratch" else trained)
            plan = PhasePlan(*numbers[0], CONTROLS[control], "control", children[-1], None, False, anew, 0)
            add(replace(plan, method="scratch", control=control, beside=children[-1].index))
            continue
        source = parent_plan
        for child, (index, name) in zip(children, numbers, strict=True):
            plan = replace(child, index=index, name=name, label=CONTROLS[control], role="control", source=source)
            plan = replace(plan, control=control, beside=child.index, is_idle=False)
            if control in INSERTS:
                plan = replace(plan, method=control)
            elif control == "linear":
                plan = replace(plan, linear=True)
            else:
                parametric = control == "prelu" and source is parent_plan
                plan = replace(plan, morph=None, layers=None, method="auto", parametric=parametric)
            source = add(_after(plan))
    return tuple(planned)


def _after(plan: PhasePlan) -> PhasePlan:
    """``plan`` with the iterations of the phases that it comes from."""
    source = plan.source
    assert source is not None
    return replace(plan, offset=source.offset + (source.schedule.steps if source.schedule is not None else 0))


def control_numbers(control: str, phases: int) -> list[tuple[int, str]]:
    """Index and name of each phase of a control, whatever other controls a run of so many ``phases`` has."""
    index = phases
    for known in CONTROLS:
        count = 1 if known in ANEW else phases - 1
        if known == control:
            name = f"{control}_trained_on" if control in ("relu", "prelu") else control
            return [(index + i, name + (f"_{i + 1}" if count > 1 else "")) for i in range(count)]
        index += count
    raise KeyError(control)


def folders_of(phases: int, controls: Sequence[str]) -> tuple[set[int], set[str]]:
    """What :func:`plan_phases` plans: the indices of the phases, and the folders of the controls."""
    numbered = [number for control in controls for number in control_numbers(control, phases)]
    return set(range(phases)), {f"{index}_{name}" for index, name in numbered}


def _names(phase: PhaseConfig, layers: Mapping[str, Operation] | None) -> tuple[str, str]:
    """Folder and label of a phase that has no name of its own."""
    if phase.morph is not None:
        return phase.morph, phase.morph
    if layers is None:
        return "trained_on", "trained on"
    ((pattern, operation),) = layers.items()
    what = phase.module if isinstance(phase.module, str) else words(operation)
    return re.sub(r"[^A-Za-z0-9_.]+", "_", f"{what}").strip("_"), f"{what} on {pattern}"


def _branches(architecture: Architecture | nn.Module) -> int:
    """How many branches specs have made in it, each with slopes of its own."""
    if isinstance(architecture, nn.Module):
        return 0
    return sum(1 + shape.two_branches for shape in architecture.shortcuts.values())


def _check_targets(network: nn.Module, layers: Mapping[str, Operation] | None, index: int) -> None:
    try:
        find_targets(network, layers or {})
    except ValueError as error:
        raise ValueError(f"phases.{index}: {error}") from error


def _schedule(
    index: int, phase: PhaseConfig, default: ScheduleConfig, after: AfterConfig, lr: float, steps_per_epoch: int
) -> Schedule:
    own_length = phase.steps is not None or phase.epochs is not None

    def choose(*values: Any) -> Any:
        """The first that is given: the phase's own, that of all phases after the first, the common one."""
        return next(value for value in values if value is not None)

    try:
        return scaled_schedule(
            steps=phase.steps if own_length else default.steps,
            epochs=phase.epochs if own_length else default.epochs,
            steps_per_epoch=steps_per_epoch,
            scale=default.scale,
            lr=choose(phase.lr, after.lr, lr),
            milestones=tuple(choose(phase.milestones, after.milestones, default.milestones)),
            factor=choose(phase.factor, after.factor, default.factor),
            warmup_steps=choose(phase.warmup_steps, after.warmup_steps, default.warmup_steps),
            warmup_lr=choose(phase.warmup_lr, after.warmup_lr, default.warmup_lr),
            decay=choose(after.decay, default.decay),
            warmup=choose(after.warmup, default.warmup),
        )
    except ValueError as error:
        raise ValueError(f"phases.{index}: {error}") from error
