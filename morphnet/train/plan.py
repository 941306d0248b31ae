"""The phases of an experiment, in the order they are run: parent, children, controls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from morphnet.config import AfterConfig, MorphConfig, PhaseConfig, TrainConfig
from morphnet.data.batches import check_calibration
from morphnet.morph import MorphPlan, Operation, plan_morph, words
from morphnet.nn.resnet import Architecture
from morphnet.spec import parse_spec
from morphnet.train.schedule import Schedule, schedule_of

Role = Literal["parent", "child", "control"]
#: Layers that are morphed, by pattern, and how.
Layers = Mapping[str, Operation]

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
        handover: how it starts from its source, beside the morph.
        is_idle: its morph adds nothing to the network of its source.
    """

    index: int
    name: str
    label: str
    role: Role
    source: PhasePlan | None
    morph: str | None
    schedule: Schedule | None
    layers: Layers | None = None
    method: str = "auto"
    handover: AfterConfig = field(default_factory=AfterConfig)
    parametric: bool = False
    linear: bool = False
    is_idle: bool = False
    control: str | None = None
    beside: int | None = None

    @property
    def steps(self) -> int:
        """Iterations it is trained for."""
        return 0 if self.schedule is None else self.schedule.steps

    @property
    def offset(self) -> int:
        """Iterations of the phases it comes from."""
        return 0 if self.source is None or self.method == "scratch" else self.source.offset + self.source.steps

    @property
    def depth(self) -> int:
        """The number of phases before it; 0 for a network that starts from random weights."""
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
        """Whether its first network is proved to compute what its source computes."""
        return self.grows and self.method != "random"


def plan_phases(
    config: TrainConfig,
    parent: Architecture | nn.Module,
    steps_per_epoch: int,
    train_images: int,
    layers: Sequence[Layers | None] = (),
) -> tuple[PhasePlan, ...]:
    """Everything a run will do, with every spec and schedule checked.

    Args:
        parent: the architecture of the parent, trained here or given; or a given parent of another class.
        train_images: how many there are to measure on.
        layers: for each phase the layers it morphs, by pattern, and how; None for none.

    Raises:
        ValueError: phases, controls, specs or schedules are wrong.
    """
    layers = layers or [None] * len(config.phases)
    check_phases(config, layers, train_images)
    architectures = _architectures(config, parent)
    _check_controls(config, layers, architectures)
    schedules = [schedule_of(config, i, steps_per_epoch) for i in range(len(config.phases))]
    is_trained = config.parent is None or config.new_head
    name = config.phases[0].name or "parent"
    first = PhasePlan(0, name, "parent", "parent", None, None, schedules[0] if is_trained else None)
    children: list[PhasePlan] = []
    for i, phase in enumerate(config.phases[1:], 1):
        name, label = _names(phase, layers[i])
        child = PhasePlan(
            index=i,
            name=phase.name or name,
            label=label,
            role="child",
            source=children[-1] if children else first,
            morph=phase.morph,
            schedule=schedules[i],
            layers=layers[i],
            method=config.morphing.settings_of(layers[i] is not None)["method"],
            handover=config.after,
            is_idle=phase.morph is not None and architectures[i] == architectures[i - 1],
        )
        children.append(child)
    controls = [plan for control in config.controls for plan in _plan_control(control, first, children, schedules)]
    return (first, *children, *controls)


def _plan_control(
    control: str, parent: PhasePlan, children: Sequence[PhasePlan], schedules: Sequence[Schedule]
) -> list[PhasePlan]:
    """The phases of a control: one beside each child, or one with the network of the last child."""
    numbers, label = control_numbers(control, len(schedules)), CONTROLS[control]
    if control in ANEW:
        steps = schedules[-1].steps if control == "scratch" else sum(schedule.steps for schedule in schedules)
        anew = replace(schedules[0], steps=steps)
        plan = PhasePlan(*numbers[0], label, "control", children[-1], None, anew, method="scratch")
        return [replace(plan, control=control, beside=children[-1].index)]
    plans = [parent]
    for child, (index, name) in zip(children, numbers, strict=True):
        plan = replace(child, index=index, name=name, label=label, role="control", source=plans[-1], is_idle=False)
        plan = replace(plan, control=control, beside=child.index)
        if control in INSERTS:
            plan = replace(plan, method=control)
        elif control == "linear":
            plan = replace(plan, linear=True)
        else:
            parametric = control == "prelu" and plan.source is parent
            plan = replace(plan, morph=None, layers=None, method="auto", parametric=parametric)
        plans.append(plan)
    return plans[1:]


def check_phases(config: TrainConfig, layers: Sequence[Layers | None], train_images: int) -> None:
    """Refuses phases, controls and settings of morphs that do not fit each other.

    Raises:
        ValueError: the first that does not fit.
    """
    phases, controls = config.phases, config.controls
    if not phases:
        raise ValueError("phases is empty: at least the parent is needed, such as phases=[{morph: null}]")
    if phases[0].morph is not None or layers[0]:
        given = f"morph={phases[0].morph!r}" if layers[0] is None else f"target={phases[0].target!r}"
        raise ValueError(f"phases.0.{given}: the first phase is the parent, so it morphs nothing")
    kinds = {bool(found) for phase, found in zip(phases, layers, strict=True) if phase.morph or found}
    config.morphing.check_fits(kinds or {False, True}, "morphing.")
    check_calibration("morphing.calibration_batches", config.morphing.calibration_batches, train_images)
    for control in controls:
        if control not in CONTROLS:
            raise ValueError(f"controls: unknown {control!r}; expected {' or '.join(CONTROLS)}")
    if len(set(controls)) != len(controls):
        raise ValueError(f"controls={controls}: one is named twice")
    if controls and len(phases) == 1:
        raise ValueError(f"controls={controls}: there is no phase after the parent to compare them with")
    if "scratch_total" in controls and config.parent is not None and not config.new_head:
        raise ValueError(
            "controls=[scratch_total] needs a parent that is trained here: how long the given one was trained is not "
            "known; give controls=[scratch]"
        )


def _check_controls(
    config: TrainConfig, layers: Sequence[Layers | None], architectures: Sequence[Architecture | nn.Module]
) -> None:
    """Refuses controls that the morphs, or the parent, cannot have."""
    parent, controls = architectures[0], config.controls
    if "prelu" in controls and isinstance(parent, nn.Module):
        raise ValueError(f"controls=[prelu] needs one of morphnet's ResNets; the parent is a {type(parent).__name__}")
    morphed = {i: phase for i, phase in enumerate(config.phases) if layers[i]}
    deepening = {i for i, phase in morphed.items() if phase.deepen is not None}
    adding = {i for i, phase in morphed.items() if phase.widen is None and phase.enlarge is None}
    for control, fitting, what in (
        ("net2net", deepening, "specs and deepen, where an identity can be inserted"),
        ("random", adding, "specs, modules and deepen, which bring new layers"),
    ):
        other = [i for i in morphed if i not in fitting]
        if control in controls and (other or not (morphed or any(phase.morph for phase in config.phases))):
            which = f"phases.{other[0]} has another morph" if other else "no phase has one"
            raise ValueError(f"controls=[{control}] goes with {what}; {which}")
    if "linear" in controls and not adding and _branches(architectures[-1]) <= _branches(parent):
        raise ValueError(
            "controls=[linear] holds the slopes that specs, modules and deepen bring, and no phase brings one: larger "
            "kernels of a branch that the parent has, wider layers and training on do not; leave linear out"
        )


def _architectures(config: TrainConfig, parent: Architecture | nn.Module) -> list[Architecture | nn.Module]:
    """After every phase, as its specs make it; a network of another class stays what it is."""
    found = [parent]
    for i, phase in enumerate(config.phases[1:], 1):
        before = found[-1]
        if phase.morph is None:
            found.append(before)
            continue
        where = f"phases.{i}.morph={phase.morph}"
        if isinstance(before, nn.Module):
            raise ValueError(
                f"{where}: a spec needs one of morphnet's ResNets, and the parent is a {type(before).__name__}: name "
                "layers by target= instead"
            )
        try:
            found.append(plan_spec(before, phase.morph, config.morphing).child)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return found


def plan_spec(architecture: Architecture, spec: str, morphing: MorphConfig) -> MorphPlan:
    """What ``spec`` does to ``architecture``."""
    settings = morphing.settings_of(layers=False)
    chosen = {key: settings[key] for key in ("split", "width", "padding", "activation")}
    return plan_morph(architecture, parse_spec(spec), **chosen)


def control_numbers(control: str, phases: int) -> list[tuple[int, str]]:
    """Index and name of each phase of a control in a run with so many ``phases``; other controls do not matter."""
    index = phases
    for known in CONTROLS:
        count = 1 if known in ANEW else phases - 1
        if known == control:
            name = f"{control}_trained_on" if control in ("relu", "prelu") else control
            return [(index + i, name + (f"_{i + 1}" if count > 1 else "")) for i in range(count)]
        index += count
    raise KeyError(control)


def folders_of(phases: int, controls: Sequence[str]) -> tuple[set[int], set[str]]:
    """The indices of the phases and the folders of the controls, as :func:`plan_phases` plans them."""
    numbered = [number for control in controls for number in control_numbers(control, phases)]
    return set(range(phases)), {f"{index}_{name}" for index, name in numbered}


def _names(phase: PhaseConfig, layers: Layers | None) -> tuple[str, str]:
    """Folder and label of a phase that has no name of its own."""
    if phase.morph is not None:
        return phase.morph, phase.morph
    if layers is None:
        return "trained_on", "trained on"
    ((pattern, operation),) = layers.items()
    what = phase.module if isinstance(phase.module, str) else words(operation)
    return re.sub(r"[^A-Za-z0-9_.]+", "_", f"{what}").strip("_"), f"{what} on {pattern}"


def _branches(architecture: Architecture | nn.Module) -> int:
    """The number of branches that specs have made, each with slopes of its own."""
    if isinstance(architecture, nn.Module):
        return 0
    return sum(1 + shape.two_branches for shape in architecture.shortcuts.values())
