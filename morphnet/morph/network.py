"""The morph of a whole network, from spec to verified child."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from morphnet.flops import count_macs, count_parameters
from morphnet.graph import ModuleGraph
from morphnet.morph.apply import apply_morph
from morphnet.morph.images import Batch, read_batches
from morphnet.morph.layer import activation_name
from morphnet.morph.named import (
    Settings,
    apply_layers,
    deliver_layers,
    find_targets,
    identity_channels,
    plan_layers,
)
from morphnet.morph.operations import Deepen, Operation
from morphnet.morph.operations import words as describe
from morphnet.morph.plan import plan_morph
from morphnet.morph.report import MorphError, MorphReport
from morphnet.morph.statistics import BN_SETTINGS, DRIFTING, batch_norms, set_batch_norms, set_identity_norms
from morphnet.morph.verify import prove, prove_layers
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import ResNet, bare, describe_morphs
from morphnet.nn.structure import restore_structure
from morphnet.nn.torchvision import convert_torchvision
from morphnet.solvers import INITS, TOLERANCE
from morphnet.spec import parse_spec

#: What ``bn`` may be with patterns of layer names.
LAYER_BN_SETTINGS = ("none", "calibrated", "paper")


@torch.inference_mode(False)
def morph_network(
    parent: nn.Module,
    spec: str | Mapping[str, Operation],
    *,
    calibration: Iterable[Batch] | None = None,
    example_input: Tensor | None = None,
    bn: str | None = None,
    padding: str | None = None,
    method: str = "auto",
    activation: str | None = "prelu",
    generator: torch.Generator | None = None,
    init: str = "dense",
    split: float = 0.5,
    width: float = 1.0,
    allow_inexact: bool = False,
) -> tuple[Any, MorphReport]:
    """A child that computes what ``parent`` computes, its layers morphed as ``spec`` says, and the proof of it.

    The parent is copied, never changed, and no tensor is shared. Everything that can be refused is refused
    before anything is built. Solved, measured and proved in float64; the child has the parent's dtype, device
    and training mode.

    Args:
        parent: with a spec string, one of our ResNets, plain or already morphed, or a torchvision ResNet
            (-18, -34, -50, -101, -152), which is converted to ours; with patterns, any network.
        spec: ``{k1}c{k2}[_2branch][_half]``, such as ``1c1_half``, for the residual shortcuts; on a morphed parent the
            target of the blocks it touches. Or a dictionary from patterns of layer names (globs, as ``fnmatch`` reads
            them) to what becomes of those layers: a :class:`~morphnet.graph.ModuleGraph`, for any ``nn.Conv2d``,
            ``nn.Identity`` or empty ``nn.Sequential``, or ``Deepen``, ``Widen``, ``Enlarge``.
        calibration: batches of images, ``(N, C, H, W)``, or (images, labels). The first half is measured on,
            the rest kept for the proof; without labels no loss is reported. Needed for new batch normalisations.
        example_input: where there is no calibration, the proof runs on random normal images of this shape. Where there
            is neither, and the network's input is unknown, every replaced layer is compared by itself.
        bn: how new batch normalisations are set. With a spec string ``calibrated`` (default), ``folded``, ``paper`` or
            ``paper_first``; see :func:`~morphnet.morph.statistics.set_batch_norms`. With patterns ``none`` (default: no
            new ones), ``calibrated`` or ``paper``, one after every convolution.
        padding: ``same`` (default with a spec string) or ``exact`` (default with patterns).
        method: ``auto``; ``als`` (patterns only), Theorem 8 as printed; ``net2net`` (spec strings and ``Deepen``), the
            identity insert of Chen et al. 2015, as a control.
        activation: the parametric activation of the new places; ``prelu``, ``pgelu``, ``ptanh``, ...; with patterns
            also ``none``.
        generator: a CPU generator that the random filters are drawn from; by default one with seed 0.
        init: ``dense`` or ``sparse`` filters; see :func:`~morphnet.solvers.solve`. With a spec string they differ
            where ``padding="exact"`` and a kernel exceeds 1x1.
        split: of a spec: the share of the identity that becomes the first branch.
        width: of a spec: C_l as a multiple of the block's channels.
        allow_inexact: return a child that failed its proof, or has no exact solution, instead of raising.

    Returns:
        The child (of the parent's class; with a spec string a :class:`~morphnet.nn.resnet.ResNet`) and its
        :class:`MorphReport`.

    Raises:
        ValueError, TypeError: an argument is wrong, batches are needed and missing, a name matches nothing or a layer
            that cannot be morphed.
        InexactError: a layer has no exact solution, or none was found.
        MorphError: the child failed its proof; the report is in the exception.

    Source: Theorem 8; for specs Sec. 4.1, Fig. 3b; Eqs. (2), (5), (8), (9).
    """
    if not isinstance(parent, nn.Module):
        raise TypeError(f"morph_network: an nn.Module is needed; got {type(parent).__name__}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if isinstance(spec, (ModuleGraph, Deepen)):
        raise TypeError("morph_network: say which layers become this module: {'layer3.*.conv2': graph}")
    if not isinstance(spec, Mapping):
        return _morph_shortcuts(
            parent,
            spec,
            calibration=calibration,
            example_input=example_input,
            bn="calibrated" if bn is None else bn,
            padding="same" if padding is None else padding,
            method=method,
            activation="prelu" if activation is None else activation,
            generator=generator,
            init=init,
            split=split,
            width=width,
            allow_inexact=allow_inexact,
        )
    return _morph_layers(
        parent,
        spec,
        calibration=calibration,
        example_input=example_input,
        bn="none" if bn is None else bn,
        settings=Settings(
            padding="exact" if padding is None else padding,  # type: ignore[arg-type]
            activation="none" if activation is None else activation,
            norm=bn not in (None, "none"),
            method=method,
            init=init,
            allow_inexact=allow_inexact,
        ),
        generator=generator,
    )


def _morph_layers(
    parent: nn.Module,
    patterns: Mapping[str, Operation],
    *,
    calibration: Iterable[Batch] | None,
    example_input: Tensor | None,
    bn: str,
    settings: Settings,
    generator: torch.Generator,
) -> tuple[nn.Module, MorphReport]:
    started = time.perf_counter()
    _check_layer_settings(parent, patterns, calibration, bn, settings)
    targets = find_targets(parent, patterns)
    known = parent.architecture if isinstance(parent, ResNet) else None
    images = read_batches(
        next(parent.parameters()).device,
        calibration,
        example_input,
        channels=None if known is None else known.in_channels,
        classes=None if known is None else known.classes,
        input_size=_input_size(parent),
    )
    exact_parent = copy.deepcopy(parent).double().eval()
    channels = identity_channels(exact_parent, targets, None if images is None else images.held_out[0])
    shapes = plan_layers(parent, targets, channels, settings)
    if images is None and len(shapes) < len(targets):
        raise ValueError(
            "widen and enlarge change more than one layer: give example_input= or calibration= to prove them"
        )
    exact_child = copy.deepcopy(exact_parent)
    layers, modules = apply_layers(exact_child, targets, shapes, settings, generator)
    solved = time.perf_counter()
    if settings.norm and modules:
        assert images is not None
        norms = [norm for module in modules for norm in batch_norms(module)]
        set_identity_norms(exact_child, norms, images.measured, paper=bn == "paper")
    measured = time.perf_counter()
    child = deliver_layers(exact_child, parent, targets)
    pairs = [
        (parent.get_submodule(t.name), exact_child.get_submodule(t.name), child.get_submodule(t.name))
        for t in targets
        if t.name in shapes
    ]
    alone = prove_layers(pairs) if pairs and bn != "paper" else None
    if images is not None:
        proof = prove(
            parent, child, exact_parent, exact_child, images.held_out, images.held_out_labels, images.measured
        )
        proof = replace(proof, alone=None if alone is None else alone.exactness)
        words = images.words
    else:
        assert alone is not None
        proof = alone
        words = "every replaced layer by itself, on random normal inputs; no input of the network was given"
    proved = time.perf_counter()
    input_size = None if images is None else (1, *images.held_out[0].shape[1:])
    unsolved = any(not layer.residual <= TOLERANCE for layer in layers)
    report = MorphReport(
        spec="; ".join(f"{pattern}: {describe(operation)}" for pattern, operation in patterns.items()),
        bn=bn,
        padding=settings.padding,
        split=None,
        width=None,
        activation=settings.activation,
        method=settings.method,
        layers=layers,
        left_alone=(),
        proof=proof,
        drift_declared=unsolved or (bool(shapes) and (settings.padding == "same" or bn in DRIFTING)),
        inputs=words,
        input_size=input_size,
        macs_before=None if input_size is None else count_macs(parent, input_size),
        macs_after=None if input_size is None else count_macs(child, input_size),
        parameters_before=count_parameters(parent),
        parameters_after=count_parameters(child),
        seconds=_seconds(started, solved, measured, proved),
    )
    if not report.passed and not settings.allow_inexact:
        raise MorphError(report)
    metadata = metadata_of(child)
    metadata["morphs"] = [*metadata.get("morphs", []), report.spec]
    return child, report


def _check_layer_settings(
    parent: nn.Module,
    patterns: Mapping[str, Operation],
    calibration: Iterable[Batch] | None,
    bn: str,
    settings: Settings,
) -> None:
    if bn not in LAYER_BN_SETTINGS:
        raise ValueError(f"bn={bn!r}; with named layers expected one of {', '.join(LAYER_BN_SETTINGS)}")
    if bn != "none" and calibration is None:
        raise ValueError(
            f"bn={bn} sets new batch normalisations from data, and there is none: give calibration=, "
            "an iterable of batches of images"
        )
    if settings.padding not in ("same", "exact"):
        raise ValueError(f"padding={settings.padding!r}; expected 'exact' or 'same'")
    if settings.method not in ("auto", "als", "net2net"):
        raise ValueError(f"method={settings.method!r}; expected auto, als or net2net")
    if settings.init not in INITS:
        raise ValueError(f"init={settings.init!r}; expected {' or '.join(INITS)}")
    if settings.method == "net2net" and not all(isinstance(o, Deepen) for o in patterns.values()):
        raise ValueError("method=net2net inserts an identity after a convolution, so it goes with Deepen alone")
    activation_name(settings.activation)
    if not any(p.is_floating_point() for p in parent.parameters()):
        raise ValueError(f"this {type(parent).__name__} has no weights to morph")


def _input_size(network: nn.Module) -> tuple[int, ...] | None:
    """``(C, H, W)`` of the images a network takes, where that is known."""
    known = getattr(network, "metadata", None)
    if isinstance(known, dict) and "input_size" in known:
        return tuple(known["input_size"])
    if isinstance(network, ResNet):
        side = 224 if network.architecture.family == "imagenet" else 32
        return (network.architecture.in_channels, side, side)
    return None


def _seconds(started: float, solved: float, measured: float, proved: float) -> dict[str, float]:
    times = {"solve": solved - started, "measure": measured - solved, "prove": proved - measured}
    return {what: round(value, 3) for what, value in times.items()}


def _morph_shortcuts(
    parent: nn.Module,
    spec: str,
    *,
    calibration: Iterable[Batch] | None,
    example_input: Tensor | None,
    bn: str,
    padding: str,
    method: str,
    activation: str,
    generator: torch.Generator,
    init: str,
    split: float,
    width: float,
    allow_inexact: bool,
) -> tuple[ResNet, MorphReport]:
    started = time.perf_counter()
    network = _our_resnet(parent)
    if bn not in BN_SETTINGS:
        raise ValueError(f"bn={bn!r}; expected one of {', '.join(BN_SETTINGS)}")
    if init not in INITS:
        raise ValueError(f"init={init!r}; expected {' or '.join(INITS)}")
    if method not in ("auto", "net2net"):
        raise ValueError(f"method={method!r}; the shortcuts of a spec are solved exactly by auto; net2net is a control")
    plan = plan_morph(
        network.architecture,
        parse_spec(spec),
        split=split,
        width=width,
        padding=padding,  # type: ignore[arg-type]
        activation=activation,
    )
    if calibration is None and any(change.new_branches for change in plan.blocks):
        raise ValueError(
            f"bn={bn} sets new batch normalisations from data, and there is none: give calibration=, "
            "an iterable of batches of images"
        )
    images = read_batches(
        next(network.parameters()).device,
        calibration,
        example_input,
        channels=network.architecture.in_channels,
        classes=network.architecture.classes,
        input_size=_input_size(network),
    )
    assert images is not None

    exact_parent = copy.deepcopy(network).double().eval()
    applied = apply_morph(exact_parent, plan, generator, method, init)
    solved = time.perf_counter()
    if applied.new_branches:
        set_batch_norms(applied.child, applied.new_branches, bn, images.measured)
    measured = time.perf_counter()
    child = _deliver(applied.child, network)
    proof = prove(
        network,
        child,
        exact_parent,
        applied.child,
        images.held_out,
        images.held_out_labels,
        images.measured,
    )
    proved = time.perf_counter()
    input_size = (1, *images.held_out[0].shape[1:])
    report = MorphReport(
        spec=str(plan.spec),
        bn=bn,
        padding=padding,
        split=split,
        width=width,
        activation=activation,
        method=method,
        layers=applied.layers,
        left_alone=plan.left_alone,
        proof=proof,
        drift_declared=bn in DRIFTING and bool(applied.new_branches),
        inputs=images.words,
        input_size=input_size,
        macs_before=count_macs(network, input_size),
        macs_after=count_macs(child, input_size),
        parameters_before=count_parameters(network),
        parameters_after=count_parameters(child),
        seconds=_seconds(started, solved, measured, proved),
    )
    if not report.passed and not allow_inexact:
        raise MorphError(report)
    child.metadata["morphs"] = [*network.metadata.get("morphs", []), str(plan.spec)]
    return child, report


def _our_resnet(parent: nn.Module) -> ResNet:
    if isinstance(parent, ResNet):
        return parent
    converted = convert_torchvision(parent)
    if converted is None:
        raise TypeError(
            "a morph spec needs one of morphnet's ResNets or torchvision's ResNet-18, -34, -50, -101 or -152 (no "
            f"ResNeXt, no wide one); got {type(parent).__name__}: name layers by patterns instead"
        )
    return converted


def _deliver(exact_child: ResNet, parent: ResNet) -> ResNet:
    """``exact_child`` as it will be used: dtype, device, training mode and metadata of ``parent``."""
    # Built without weights: every one of them is the exact child's, and drawing them anew takes longer than all else.
    child = bare(exact_child.architecture)
    with torch.device("meta"):
        restore_structure(child, describe_morphs(exact_child))
    like = next(parent.parameters())
    child = child.to_empty(device=like.device).to(like.dtype)
    child.load_state_dict(exact_child.state_dict())
    child.metadata = copy.deepcopy(parent.metadata)
    frozen = {name for name, parameter in parent.named_parameters() if not parameter.requires_grad}
    for name, parameter in child.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return child.train(parent.training)
