"""The morph of a whole network: planned, solved, measured, delivered, proved."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from morphnet.flops import count_macs, count_parameters
from morphnet.graph import ModuleGraph
from morphnet.morph.apply import apply_morph
from morphnet.morph.images import Batch, Images, read_batches
from morphnet.morph.named import apply_layers, deliver_layers, find_targets, identity_channels, plan_layers
from morphnet.morph.operations import Deepen, Operation
from morphnet.morph.operations import words as describe
from morphnet.morph.plan import Settings, plan_morph
from morphnet.morph.report import LayerReport, MorphError, MorphReport
from morphnet.morph.statistics import DRIFTING, batch_norms, set_batch_norms, set_identity_norms
from morphnet.morph.verify import Proof, prove, prove_layers
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import ResNet, rebuild
from morphnet.nn.torchvision import convert_torchvision
from morphnet.solvers import TOLERANCE
from morphnet.spec import parse_spec


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

    The parent is copied, never changed, and no tensor is shared. The morph is computed and proved in float64; the child
    has the parent's dtype, device and training mode.

    Args:
        parent: with a spec string, one of our ResNets, plain or already morphed, or a torchvision ResNet
            (-18, -34, -50, -101, -152), which is converted to ours; with patterns, any network.
        spec: ``{k1}c{k2}[_2branch][_half]``, such as ``1c1_half``, for the residual shortcuts; on a morphed parent the
            target of the blocks it touches. Or a dictionary from patterns of layer names (globs, as ``fnmatch`` reads
            them) to what becomes of those layers: a :class:`~morphnet.graph.ModuleGraph`, for any ``nn.Conv2d``,
            ``nn.Identity`` or empty ``nn.Sequential``, or ``Deepen``, ``Widen``, ``Enlarge``.
        calibration: batches of images, ``(N, C, H, W)``, or (images, labels): half to measure new batch normalisations
            on, half for the proof; without labels no loss is reported.
        example_input: without calibration, the proof uses random normal images of this shape. Without both, and if the
            network's input is unknown, every replaced layer is compared alone.
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
        split: with a spec string, the share of the identity that becomes the first branch.
        width: with a spec string, C_l as a multiple of the block's channels.
        allow_inexact: return a child that failed its proof or has no exact solution.

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
    if isinstance(spec, (ModuleGraph, Deepen)):
        raise TypeError("morph_network: say which layers become this module: {'layer3.*.conv2': graph}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    named = isinstance(spec, Mapping)
    settings = Settings(
        bn=bn if bn is not None else "none" if named else "calibrated",
        padding=padding if padding is not None else "exact" if named else "same",  # type: ignore[arg-type]
        activation=activation if activation is not None else "none" if named else "prelu",
        method=method,
        init=init,
        allow_inexact=allow_inexact,
        split=None if named else split,
        width=None if named else width,
    )
    inputs = (calibration, example_input)
    if isinstance(spec, Mapping):
        return _morph_layers(parent, spec, inputs, settings, generator)
    return _morph_shortcuts(_our_resnet(parent), spec, inputs, settings, generator)


#: ``calibration`` and ``example_input`` of :func:`morph_network`.
Inputs = tuple[Iterable[Batch] | None, Tensor | None]


@dataclass(frozen=True)
class _Morph:
    """A morph that is to be proved.

    Attributes:
        parent, child: as they are used, in their own dtype.
        exact_parent, exact_child: the same in float64, before the child is cast.
        replaced: the layers that became modules, each as (layer, exact module, module as delivered).
        marks: when the morph began, was solved, was measured.
    """

    parent: nn.Module
    exact_parent: nn.Module
    exact_child: nn.Module
    child: nn.Module
    layers: tuple[LayerReport, ...]
    marks: tuple[float, float, float]
    left_alone: tuple[str, ...] = ()
    replaced: list[tuple[nn.Module, nn.Module, nn.Module]] = field(default_factory=list)


def _morph_layers(
    parent: nn.Module,
    patterns: Mapping[str, Operation],
    inputs: Inputs,
    settings: Settings,
    generator: torch.Generator,
) -> tuple[nn.Module, MorphReport]:
    started = time.perf_counter()
    settings.check_batches(inputs[0], needed=settings.norm)
    if settings.method == "net2net" and not all(isinstance(o, Deepen) for o in patterns.values()):
        raise ValueError("method=net2net inserts an identity after a convolution, so it goes with Deepen alone")
    if not any(p.is_floating_point() for p in parent.parameters()):
        raise ValueError(f"this {type(parent).__name__} has no weights to morph")
    targets = find_targets(parent, patterns)
    images = _read(parent, inputs)
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
        set_identity_norms(exact_child, norms, images.measured, paper=settings.bn == "paper")
    marks = (started, solved, time.perf_counter())
    child = deliver_layers(exact_child, parent)
    morph = _Morph(parent, exact_parent, exact_child, child, layers, marks)
    for name in shapes:
        old, new, cast = (network.get_submodule(name) for network in (parent, exact_child, child))
        morph.replaced.append((old, new, cast))
    unsolved = any(not layer.residual <= TOLERANCE for layer in layers)
    drifts = unsolved or (bool(shapes) and (settings.padding == "same" or settings.bn in DRIFTING))
    words = "; ".join(f"{pattern}: {describe(operation)}" for pattern, operation in patterns.items())
    return _proved(morph, words, images, settings, drifts)


def _morph_shortcuts(
    parent: ResNet, spec: str, inputs: Inputs, settings: Settings, generator: torch.Generator
) -> tuple[nn.Module, MorphReport]:
    started = time.perf_counter()
    assert settings.split is not None
    assert settings.width is not None
    plan = plan_morph(
        parent.architecture,
        parse_spec(spec),
        split=settings.split,
        width=settings.width,
        padding=settings.padding,
        activation=settings.activation,
    )
    settings.check_batches(inputs[0], needed=any(change.new_branches for change in plan.blocks))
    images = _read(parent, inputs)
    assert images is not None
    exact_parent = copy.deepcopy(parent).double().eval()
    applied = apply_morph(exact_parent, plan, generator, settings.method, settings.init)
    solved = time.perf_counter()
    if applied.new_branches:
        set_batch_norms(applied.child, applied.new_branches, settings.bn, images.measured)
    marks = (started, solved, time.perf_counter())
    child = _deliver(applied.child, parent)
    morph = _Morph(parent, exact_parent, applied.child, child, applied.layers, marks, plan.left_alone)
    drifts = settings.bn in DRIFTING and bool(applied.new_branches)
    return _proved(morph, str(plan.spec), images, settings, drifts)


def _read(network: nn.Module, inputs: Inputs) -> Images | None:
    """The images of a morph of ``network``; None where nothing tells what it takes."""
    known = network.architecture if isinstance(network, ResNet) else None
    metadata = getattr(network, "metadata", None)
    size: tuple[int, ...] | None = None
    if isinstance(metadata, dict) and "input_size" in metadata:
        size = tuple(metadata["input_size"])
    elif known is not None:
        side = 224 if known.family == "imagenet" else 32
        size = (known.in_channels, side, side)
    return read_batches(
        next(network.parameters()).device,
        *inputs,
        channels=None if known is None else known.in_channels,
        classes=None if known is None else known.classes,
        input_size=size,
    )


def _proved(
    morph: _Morph, spec: str, images: Images | None, settings: Settings, drifts: bool
) -> tuple[nn.Module, MorphReport]:
    """The child and its report; ``drifts``: the settings are known to change the function.

    Raises:
        MorphError: the child failed its proof.
    """
    proof = _prove(morph, images, settings)
    marks = (*morph.marks, time.perf_counter())
    steps = zip(("solve", "measure", "prove"), marks, marks[1:], strict=False)
    input_size = None if images is None else (1, *images.held_out[0].shape[1:])
    report = MorphReport(
        spec=spec,
        bn=settings.bn,
        padding=settings.padding,
        split=settings.split,
        width=settings.width,
        activation=settings.activation,
        method=settings.method,
        layers=morph.layers,
        left_alone=morph.left_alone,
        proof=proof,
        drift_declared=drifts,
        inputs="every replaced layer by itself, on random normal inputs; no input of the network was given"
        if images is None
        else images.words,
        input_size=input_size,
        macs_before=None if input_size is None else count_macs(morph.parent, input_size),
        macs_after=None if input_size is None else count_macs(morph.child, input_size),
        parameters_before=count_parameters(morph.parent),
        parameters_after=count_parameters(morph.child),
        seconds={step: round(end - begin, 3) for step, begin, end in steps},
    )
    if not report.passed and not settings.allow_inexact:
        raise MorphError(report)
    metadata = metadata_of(morph.child)
    metadata["morphs"] = [*metadata.get("morphs", []), spec]
    return morph.child, report


def _prove(morph: _Morph, images: Images | None, settings: Settings) -> Proof:
    alone = prove_layers(morph.replaced) if morph.replaced and settings.bn != "paper" else None
    if images is None:
        assert alone is not None
        return alone
    proof = prove(
        morph.parent,
        morph.child,
        morph.exact_parent,
        morph.exact_child,
        images.held_out,
        images.held_out_labels,
        images.measured,
    )
    return replace(proof, alone=None if alone is None else alone.exactness)


def _our_resnet(parent: nn.Module) -> ResNet:
    converted = parent if isinstance(parent, ResNet) else convert_torchvision(parent)
    if converted is None:
        raise TypeError(
            "a morph spec needs one of morphnet's ResNets or torchvision's ResNet-18, -34, -50, -101 or -152 (no "
            f"ResNeXt, no wide one); got {type(parent).__name__}: name layers by patterns instead"
        )
    return converted


def _deliver(exact_child: ResNet, parent: ResNet) -> ResNet:
    """``exact_child`` in the dtype, training mode and trainability of ``parent``."""
    child = rebuild(exact_child).to(next(parent.parameters()).dtype)
    frozen = {name for name, parameter in parent.named_parameters() if not parameter.requires_grad}
    for name, parameter in child.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return child.train(parent.training)
