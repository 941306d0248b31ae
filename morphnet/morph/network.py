"""The morph of a whole network, from spec to verified child."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from morphnet.flops import count_macs, count_parameters
from morphnet.morph.apply import LayerReport, apply_morph
from morphnet.morph.plan import MorphPlan, plan_morph
from morphnet.morph.statistics import BN_SETTINGS, DRIFTING, set_batch_norms
from morphnet.morph.verify import Proof, prove
from morphnet.nn.resnet import ResNet
from morphnet.nn.torchvision import convert_torchvision
from morphnet.spec import parse_spec

Batch = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class MorphReport:
    """What a morph did and how far parent and child differ; :meth:`to_dict` is ``morph_report.json``.

    Attributes:
        spec, bn, padding, split, width, activation: the settings of shortcuts that were plain before; one that
            was morphed already keeps its own, which are in ``layers``.
        layers: one entry per shortcut that changed.
        left_alone: blocks that were already what the spec asks for.
        proof: the comparison of parent and child.
        drift_declared: the setting is known to change the function, so the proof is a measurement, no check.
        inputs: in words, the images that statistics and proof come from.
        macs_before, macs_after: multiply-accumulates for one image of ``input_size``.
        seconds: time to plan, solve and apply; to measure statistics; to prove.
    """

    spec: str
    bn: str
    padding: str
    split: float
    width: float
    activation: str
    layers: tuple[LayerReport, ...]
    left_alone: tuple[str, ...]
    proof: Proof
    drift_declared: bool
    inputs: str
    input_size: tuple[int, ...]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the child may be used as the parent's equal, or its drift was declared (and is a number)."""
        if self.drift_declared:
            return math.isfinite(self.proof.exactness.relative) and math.isfinite(self.proof.delivered.relative)
        return not self.proof.failures

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "failures": list(self.proof.failures), "passed": self.passed}

    def __str__(self) -> str:
        proof, training = self.proof, self.proof.training
        lines = [
            f"{self.spec}, bn={self.bn}: {len(self.layers)} shortcuts morphed, {len(self.left_alone)} there already",
            f"  FLOP        {self.macs_before:,} -> {self.macs_after:,} ({self.macs_after / self.macs_before:.3f}x)",
            f"  parameters  {self.parameters_before:,} -> {self.parameters_after:,}",
            f"  proof on    {self.inputs}",
            f"  float64     largest difference of logits {proof.exactness.relative:.1e} of the largest logit",
            f"  delivered   {proof.delivered.relative:.1e} with the weights it has; computed in their precision "
            f"{proof.own_dtype.relative:.1e} (rounding of the parent alone: {proof.noise_floor:.1e})",
            f"  flips       {proof.own_dtype.flips} of {proof.own_dtype.images} images change their class",
        ]
        if training is not None:
            lines.append(
                f"  training    with batch statistics, logits differ by {training.ratio:.2f} of the parent's own noise "
                + (f"(limit {proof.tolerance['training']:.1f})" if training.judged else "(too few images to judge)")
            )
        if self.drift_declared:
            lines.append(f"  bn={self.bn} changes the function; what it changed is above")
        lines += [f"  FAILED      {failure}" for failure in proof.failures if not self.passed]
        return "\n".join(lines)


class MorphError(Exception):
    """The child failed its proof; ``report`` says by how much. Nothing was changed."""

    def __init__(self, report: MorphReport) -> None:
        self.report = report
        super().__init__(f"morph {report.spec} failed its proof: " + "; ".join(report.proof.failures))


def morph_network(
    parent: nn.Module,
    spec: str,
    *,
    calibration: Iterable[Batch] | None = None,
    example_input: Tensor | None = None,
    bn: str | None = None,
    padding: str | None = None,
    method: str = "auto",
    activation: str = "prelu",
    generator: torch.Generator | None = None,
    split: float = 0.5,
    width: float = 1.0,
    allow_inexact: bool = False,
) -> tuple[ResNet, MorphReport]:
    """A child that computes what ``parent`` computes, its residual shortcuts morphed as ``spec`` says.

    The parent is copied, never changed, and no tensor is shared. Everything that can be refused is refused
    before anything is built. Solved, measured and proved in float64; the child has the parent's dtype, device
    and training mode.

    Args:
        parent: one of our ResNets, plain or already morphed, or a torchvision ResNet of basic blocks, which
            is converted to ours.
        spec: ``{k1}c{k2}[_2branch][_half]``, such as ``1c1_half``; on a morphed parent the target of the
            blocks it touches.
        calibration: batches of images, ``(N, C, H, W)``, or (images, labels). The first half is measured on,
            the rest kept for the proof; without labels no loss is reported. Needed where a branch is new.
        example_input: where there is no calibration, the proof runs on random normal images of this shape.
        bn: how the new batch normalisations are set, ``calibrated`` (default), ``folded``, ``paper`` or
            ``paper_first``; see :func:`~morphnet.morph.statistics.set_batch_norms`.
        padding: ``same`` (default) or ``exact``; see :class:`~morphnet.nn.branch.ShortcutShape`.
        method: ``auto``; two convolutions in series are solved exactly by one linear system.
        activation: the parametric activation of the new places; ``prelu``, ``pgelu``, ``ptanh``, ...
        generator: a CPU generator that the random filters are drawn from; by default one with seed 0.
        split: the share of the identity that becomes the first branch.
        width: C_l as a multiple of the block's channels.
        allow_inexact: return a child that failed its proof instead of raising.

    Returns:
        The child and its :class:`MorphReport`.

    Raises:
        ValueError, TypeError: an argument is wrong, or batches are needed and missing.
        MorphError: the child failed its proof; the report is in the exception.

    Source: Sec. 4.1, Fig. 3b; Eqs. (2), (8), (9).
    """
    started = time.perf_counter()
    network = _our_resnet(parent)
    bn = "calibrated" if bn is None else bn
    if bn not in BN_SETTINGS:
        raise ValueError(f"bn={bn!r}; expected one of {', '.join(BN_SETTINGS)}")
    if method != "auto":
        raise ValueError(
            f"method={method!r}; shortcuts are solved exactly by 'auto', which is the only method for a spec"
        )
    plan = plan_morph(
        network.architecture,
        parse_spec(spec),
        split=split,
        width=width,
        padding="same" if padding is None else padding,  # type: ignore[arg-type]
        activation=activation,
    )
    images = _read_batches(network, plan, calibration, example_input, bn)
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    exact_parent = copy.deepcopy(network).double().eval()
    applied = apply_morph(exact_parent, plan, generator)
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
        padding="same" if padding is None else padding,
        split=split,
        width=width,
        activation=activation,
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
        seconds={
            "solve": round(solved - started, 3),
            "measure": round(measured - solved, 3),
            "prove": round(proved - measured, 3),
        },
    )
    if not report.passed and not allow_inexact:
        raise MorphError(report)
    child.metadata["morphs"] = [*network.metadata.get("morphs", []), str(plan.spec)]
    return child, report


@dataclass(frozen=True)
class _Images:
    """Float64 batches, on the parent's device: what statistics are measured on, and what the proof uses."""

    measured: list[Tensor]
    held_out: list[Tensor]
    held_out_labels: list[Tensor] | None
    words: str


def _our_resnet(parent: nn.Module) -> ResNet:
    if isinstance(parent, ResNet):
        return parent
    converted = convert_torchvision(parent)
    if converted is None:
        raise TypeError(
            f"a morph spec needs one of morphnet's ResNets or a torchvision ResNet-18 or -34; "
            f"got {type(parent).__name__}"
        )
    return converted


def _read_batches(
    network: ResNet,
    plan: MorphPlan,
    calibration: Iterable[Batch] | None,
    example_input: Tensor | None,
    bn: str,
) -> _Images:
    device = next(network.parameters()).device
    channels = network.architecture.in_channels
    if calibration is None:
        if any(change.new_branches for change in plan.blocks):
            raise ValueError(
                f"bn={bn} sets new batch normalisations from data, and there is none: give calibration=, "
                "an iterable of batches of images"
            )
        if example_input is not None and (example_input.dim() != 4 or example_input.shape[1] != channels):
            raise ValueError(f"example_input: shape (N, {channels}, H, W) is needed; got {tuple(example_input.shape)}")
        side = 224 if network.architecture.family == "imagenet" else 32
        shape = tuple(network.metadata.get("input_size", (channels, side, side)))
        size = (16, *shape) if example_input is None else (max(4, len(example_input)), *example_input.shape[1:])
        noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
        return _Images([noise[0]], [noise[1]], None, f"{size[0]} random normal inputs of {size[1:]}; no data was given")
    images: list[Tensor] = []
    labels: list[Tensor] = []
    if not isinstance(calibration, Iterable):
        raise TypeError(f"calibration: an iterable of batches of images is needed; got {type(calibration).__name__}")
    for batch in calibration:
        x, y = _split_batch(batch, channels, network.architecture.classes)
        if images and x.shape[1:] != images[0].shape[1:]:
            raise ValueError(
                f"calibration: images of one size are needed; got {tuple(images[0].shape[1:])} and {tuple(x.shape[1:])}"
            )
        images.append(x.detach().to(device, torch.float64))
        if y is not None:
            labels.append(y.to(device))
    if len(images) == 1 and len(images[0]) >= 4:
        half = len(images[0]) // 2
        images = [images[0][:half], images[0][half:]]
        labels = [labels[0][:half], labels[0][half:]] if labels else []
    if len(images) < 2 or min(len(x) for x in images) < 2:
        raise ValueError(
            "calibration: at least two batches of two images are needed (or one of four), a half to measure on and "
            f"a half for the proof; got {len(images)} of {[len(x) for x in images]}"
        )
    kept = len(images) // 2
    held_out_labels = labels[-kept:] if len(labels) == len(images) else None
    words = f"{kept} batches of {len(images[-1])} images; statistics from {len(images) - kept} others"
    return _Images(images[:-kept], images[-kept:], held_out_labels, words)


def _split_batch(batch: Batch, channels: int, classes: int) -> tuple[Tensor, Tensor | None]:
    """Images, and labels if there are any; refused in words that say what a batch is."""
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (1, 2):
            raise ValueError(f"calibration: a batch is a tensor or (images, labels); got {len(batch)} values")
        x, y = batch[0], batch[1] if len(batch) == 2 else None
    else:
        x, y = batch, None
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != channels or x.numel() == 0:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"calibration: a batch of shape (N, {channels}, H, W) is needed; got {got}")
    if not torch.is_floating_point(x):
        raise ValueError(f"calibration: normalised images of a floating dtype are needed; got {x.dtype}")
    if not torch.isfinite(x).all():
        raise ValueError("calibration: the images hold infinities or NaN")
    if y is not None:
        good = isinstance(y, Tensor) and y.shape == x.shape[:1] and y.dtype in (torch.int64, torch.int32, torch.uint8)
        if not good or int(y.min()) < 0 or int(y.max()) >= classes:
            raise ValueError(f"calibration: {len(x)} labels from 0 to {classes - 1} are needed beside {len(x)} images")
        y = y.long()
    return x, y


def _deliver(exact_child: ResNet, parent: ResNet) -> ResNet:
    """``exact_child`` as it will be used: dtype, device, training mode and metadata of ``parent``."""
    child = ResNet(exact_child.architecture).to(next(parent.parameters()))
    child.load_state_dict(exact_child.state_dict())
    child.metadata = copy.deepcopy(parent.metadata)
    frozen = {name for name, parameter in parent.named_parameters() if not parameter.requires_grad}
    for name, parameter in child.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return child.train(parent.training)
