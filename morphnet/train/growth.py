"""How the network of a phase grows from that of its source, and a rehearsal of it before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from morphnet.data import generator_for
from morphnet.morph import InexactError, MorphError, morph_network
from morphnet.morph.apply import child_like
from morphnet.nn.resnet import Architecture, ResNet, with_parametric_activations
from morphnet.train.experiment import Experiment
from morphnet.train.plan import PhasePlan, plan_spec


def morph_settings(experiment: Experiment, plan: PhasePlan) -> dict[str, Any]:
    """The arguments of :func:`~morphnet.morph.morph_network` for ``plan``, without images to measure on."""
    return {
        **experiment.morphing.settings_of(plan.layers is not None),
        "method": plan.method if plan.is_proved else "auto",
        "generator": generator_for(experiment.seed, plan.depth, "filters"),
    }


def network_like(
    experiment: Experiment,
    plan: PhasePlan,
    before: Mapping[str, nn.Module],
    architecture: Architecture | None,
    parent: nn.Module | None,
) -> nn.Module:
    """A network with the structure that the phase trains, and meaningless weights.

    Args:
        before: the networks of earlier phases, by folder.
        architecture: of the parent, where none is given.

    Raises:
        ValueError: a layer cannot be morphed.
        InexactError: it cannot be morphed with its function unchanged.
    """
    if plan.source is None:
        if parent is not None:
            return parent
        assert architecture is not None
        return ResNet(architecture)
    source = before[plan.source.folder]
    if plan.morph is not None:
        assert isinstance(source, ResNet)
        return child_like(source, plan_spec(source.architecture, plan.morph, experiment.morphing))
    if plan.layers is not None:
        return _with_other_layers(experiment, plan, source)
    if plan.parametric:
        assert isinstance(source, ResNet)
        return with_parametric_activations(source)
    return source


def rehearse(
    experiment: Experiment, plans: Sequence[PhasePlan], architecture: Architecture | None, parent: nn.Module | None
) -> None:
    """Refuses a plan with layers that cannot be morphed, before anything is trained.

    Phases that have begun are not rehearsed; nor is a plan of specs alone on a parent that is trained here, which
    :func:`~morphnet.train.plan.plan_phases` has checked.

    Raises:
        ValueError: a phase cannot begin; the message is that of its morph.
        InexactError: a layer would have no exact solution.
    """
    folder = experiment.run_dir / "phases"
    waiting = [p for p in plans if p.source is not None and not (folder / p.folder / "start.safetensors").exists()]
    if parent is None and all(plan.layers is None for plan in plans):
        waiting = []
    networks: dict[str, nn.Module] = {}
    for plan in plans[: plans.index(waiting[-1]) + 1] if waiting else ():
        try:
            networks[plan.folder] = network_like(experiment, plan, networks, architecture, parent)
        except ValueError as error:
            kind = InexactError if isinstance(error, InexactError) else ValueError
            raise kind(f"phase {plan.folder} could not begin, so nothing is trained: {error}") from error


def _with_other_layers(experiment: Experiment, plan: PhasePlan, source: nn.Module) -> nn.Module:
    assert plan.layers is not None
    generator = generator_for("rehearsal")
    few = [torch.randn(2, *experiment.data.input_size, generator=generator) for _ in range(4)]
    settings = morph_settings(experiment, plan)
    try:
        child, _ = morph_network(source.cpu(), plan.layers, calibration=few, **settings)
    except MorphError:  # of untrained weights and noise in place of images
        child, _ = morph_network(source.cpu(), plan.layers, calibration=few, allow_inexact=True, **settings)
    return child  # type: ignore[no-any-return]
