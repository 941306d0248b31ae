"""Everything known before a filter is solved: the settings of a morph, and what a spec does to each block."""

from __future__ import annotations

from dataclasses import dataclass, replace

from morphnet.morph.layer import activation_name
from morphnet.morph.statistics import BN_SETTINGS
from morphnet.nn.branch import Padding, ShortcutShape
from morphnet.nn.resnet import Architecture, parametric_name, phi_of
from morphnet.solvers import INITS
from morphnet.spec import MorphSpec

#: Values of ``bn`` with patterns of layer names.
LAYER_BN_SETTINGS = ("none", "calibrated", "paper")


@dataclass(frozen=True)
class Settings:
    """How a network is morphed; see :func:`~morphnet.morph.morph_network`. Only a spec string has split and width."""

    bn: str
    padding: Padding
    activation: str
    method: str = "auto"
    init: str = "dense"
    allow_inexact: bool = False
    split: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        named = self.split is None
        known = LAYER_BN_SETTINGS if named else BN_SETTINGS
        if self.bn not in known:
            place = "with named layers expected" if named else "expected"
            raise ValueError(f"bn={self.bn!r}; {place} one of {', '.join(known)}")
        if self.padding not in ("same", "exact"):
            raise ValueError(f"padding={self.padding!r}; expected 'same' or 'exact'")
        if self.method not in (("auto", "als", "net2net") if named else ("auto", "net2net")):
            methods = (
                "expected auto, als or net2net"
                if named
                else "auto solves the shortcuts of a spec exactly; net2net is a control"
            )
            raise ValueError(f"method={self.method!r}; {methods}")
        if self.init not in INITS:
            raise ValueError(f"init={self.init!r}; expected {' or '.join(INITS)}")
        activation_name(self.activation)

    @property
    def norm(self) -> bool:
        """Whether new batch normalisations are built."""
        return self.bn != "none"

    def check_batches(self, calibration: object, needed: bool) -> None:
        """Refuses settings that need batches of images where there are none."""
        if needed and calibration is None:
            raise ValueError(
                f"bn={self.bn} sets new batch normalisations from data, and there is none: give calibration=, "
                "an iterable of batches of images"
            )


@dataclass(frozen=True)
class BlockMorph:
    """One block's shortcut before and after; ``before`` is None where it is a plain identity."""

    block: str
    channels: int
    before: ShortcutShape | None
    after: ShortcutShape

    @property
    def new_branches(self) -> int:
        """Branches that were not there before: 0, 1 or 2."""
        had = 0 if self.before is None else 1 + self.before.two_branches
        return 1 + self.after.two_branches - had


@dataclass(frozen=True)
class MorphPlan:
    """The changes of a morph.

    Attributes:
        blocks: the shortcuts that change, in the order of the data.
        left_alone: blocks of the spec that already have its form.
    """

    spec: MorphSpec
    child: Architecture
    blocks: tuple[BlockMorph, ...]
    left_alone: tuple[str, ...]


def plan_morph(
    parent: Architecture,
    spec: MorphSpec,
    *,
    split: float = 0.5,
    width: float = 1.0,
    padding: Padding = "same",
    activation: str = "prelu",
) -> MorphPlan:
    """Plans the morph of the shortcuts that ``spec`` touches.

    The first block of every stage is not touched, and with ``half`` no block of even index (from 0 within its stage). A
    block that was morphed before keeps its split, padding and activation, and gets a second branch or larger kernels.

    Args:
        parent: the architecture of the parent, plain or morphed.
        split: the share of the identity that becomes the first branch, in (0, 1).
        width: C_l as a multiple of the block's channels, at least 1.
        padding: see :class:`~morphnet.nn.branch.ShortcutShape`.
        activation: the parametric activation of the new places, such as ``prelu`` (``relu`` means the same).

    Raises:
        ValueError: an argument is out of range, no block is touched, or a block would lose a branch, kernel size or
            channels (a step backwards).

    Source: Sec. 4.1.
    """
    if not 1e-3 <= split <= 1 - 1e-3:
        raise ValueError(f"split={split}: the share of the identity that is morphed lies between 0.001 and 0.999")
    if padding not in ("same", "exact"):
        raise ValueError(f"padding={padding!r}; expected 'same' or 'exact'")
    if not 1 <= width < float("inf"):
        raise ValueError(f"width={width}: an identity does not fit through fewer channels than it has; use 1 or more")
    phi = phi_of(activation)
    stages = enumerate(zip(parent.blocks, parent.block_channels, strict=True), 1)
    in_stages = [(f"layer{s}.{i}", i, channels) for s, (count, channels) in stages for i in range(count)]
    touched = [(name, channels) for name, i, channels in in_stages if (i % 2 == 1 if spec.half else i > 0)]
    if not touched:
        raise ValueError(
            f"{spec} touches no block of this network ({' + '.join(map(str, parent.blocks))} blocks): the first of "
            "every stage is left alone, so at least one stage needs two (a CIFAR ResNet of 14 layers or more)"
        )
    blocks, left_alone = [], []
    for name, channels in touched:
        before = parent.shortcuts.get(name)
        mid = round(channels * width)
        if before is None:
            after = ShortcutShape(spec.kernel_sizes, mid, spec.two_branches, split, padding, phi)
        else:
            after = replace(before, kernel_sizes=spec.kernel_sizes, two_branches=spec.two_branches, mid_channels=mid)
            _check_forward(name, before, after, spec)
        if before == after:
            left_alone.append(name)
        else:
            blocks.append(BlockMorph(name, channels, before, after))
    shortcuts = {**parent.shortcuts, **{block.block: block.after for block in blocks}}
    child = replace(parent, shortcuts=shortcuts, activation=parametric_name(parent.activation))
    return MorphPlan(spec, child, tuple(blocks), tuple(left_alone))


def _check_forward(name: str, before: ShortcutShape, after: ShortcutShape, spec: MorphSpec) -> None:
    was = MorphSpec(before.kernel_sizes, before.two_branches)
    larger = all(new >= old for new, old in zip(after.kernel_sizes, before.kernel_sizes, strict=True))
    if not larger or (before.two_branches and not after.two_branches):
        raise ValueError(
            f"{spec} is a step backwards for {name}, which is {was} already; a morph only grows: name the target, "
            "with kernels and branches that are there or larger"
        )
    if before.padding == "exact" and after.kernel_sizes != before.kernel_sizes:
        raise ValueError(
            f"{name} was morphed with padding=exact; larger kernels would widen the rim of zeros that its batch "
            "normalisations were measured with: name the larger kernels in the first morph, or use padding=same"
        )
    if after.mid_channels != before.mid_channels:
        raise ValueError(
            f"{name} is {was} with {before.mid_channels} channels in the middle; {spec} would make "
            f"them {after.mid_channels}, which is not a change of its kernels or branches: keep the width"
        )
