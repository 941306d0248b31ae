"""What a morph did and how far parent and child differ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from morphnet.morph.statistics import DRIFTING
from morphnet.morph.verify import Proof
from morphnet.nn.branch import ShortcutShape
from morphnet.solvers import TOLERANCE


@dataclass(frozen=True)
class LayerReport:
    """How one shortcut or layer was replaced.

    Attributes:
        name: the block, such as ``layer1.1``, or the layer, such as ``layer3.0.conv2``.
        change: in words, such as ``identity -> 1c1``.
        residual: of the morphism equation, relative, in float64; 0 where filters were only padded with zeros.
        condition: condition number of the system that was solved; 1 where none was.
        zero_share: share of exact zeros in the filters of the shortcut.
        seconds: time to solve and write them.
        shape: what a shortcut is now: kernels, channels, split, padding, activation.
        module: what a layer is now, if it became a module: graph, padding, activation, the convolution it was.
        outcome: of the solver, in words.
        weak: filters and paths that are too weak to learn from, in words.
    """

    name: str
    change: str
    residual: float
    condition: float
    zero_share: float
    seconds: float
    shape: ShortcutShape | None = None
    module: dict[str, Any] | None = None
    outcome: str = ""
    weak: tuple[str, ...] = ()


@dataclass(frozen=True)
class MorphReport:
    """What a morph did and how far parent and child differ; :meth:`to_dict` is ``morph_report.json``.

    Attributes:
        spec: the morph spec, or with name patterns each pattern and what became of it.
        bn, padding, split, width, activation: the settings of what is new; a shortcut that was morphed already keeps
            its own, which are in ``layers``. Split and width are those of a spec.
        method: how filters were found.
        layers: one entry per shortcut or layer that changed.
        left_alone: blocks that were already what the spec asks for.
        proof: the comparison of parent and child.
        drift_declared: the setting is known to change the function, so the proof is a measurement, no check.
        inputs: in words, the images that statistics and proof come from.
        macs_before, macs_after: multiply-accumulates for one image of ``input_size``; None where none is known.
        seconds: time to plan, solve and apply; to measure statistics; to prove.
    """

    spec: str
    bn: str
    padding: str
    split: float | None
    width: float | None
    activation: str
    method: str
    layers: tuple[LayerReport, ...]
    left_alone: tuple[str, ...]
    proof: Proof
    drift_declared: bool
    inputs: str
    input_size: tuple[int, ...] | None
    macs_before: int | None
    macs_after: int | None
    parameters_before: int
    parameters_after: int
    seconds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the child may be used as the parent's equal, or its drift was declared (and is a number)."""
        if self.drift_declared:
            alone = self.proof.alone
            solved = all(layer.residual <= TOLERANCE for layer in self.layers)
            if solved and alone is not None and not alone.relative <= self.proof.tolerance["exactness"]:
                return False  # a border may drift, the filters themselves may not
            return math.isfinite(self.proof.exactness.relative) and math.isfinite(self.proof.delivered.relative)
        return not self.proof.failures

    def to_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "failures": list(self.proof.failures), "passed": self.passed}
        # JSON knows no NaN, such as the condition of an iterative method, or figures of a network that computes NaN.
        return {key: _finite(value) for key, value in found.items()}

    def __str__(self) -> str:
        proof, training = self.proof, self.proof.training
        lines = [
            f"{self.spec}, bn={self.bn}: {self._count()}",
            *([] if self.layers else ["  note        all that it touches was there already: the child is the parent"]),
            f"  FLOP        {self._macs()}",
            f"  parameters  {self.parameters_before:,} -> {self.parameters_after:,}",
            f"  proof on    {self.inputs}",
            f"  float64     largest difference of logits {proof.exactness.relative:.1e} of the largest logit",
            f"  delivered   {proof.delivered.relative:.1e} with the weights it has; computed in their precision "
            f"{proof.own_dtype.relative:.1e} (rounding of the parent alone: {proof.noise_floor:.1e})",
            f"  flips       {proof.own_dtype.flips} of {proof.own_dtype.images} images change their class",
        ]
        if proof.alone is not None and proof.alone != proof.exactness:
            lines.append(
                f"  layers      each replaced layer by itself, float64: largest difference {proof.alone.relative:.1e}"
            )
        if training is not None:
            by = noise_in_words(training.ratio, training.difference, training.size)
            lines.append(
                f"  training    with batch statistics, logits differ by {by} "
                + (f"(limit {proof.tolerance['training']:.1f})" if training.judged else f"({training.unjudged})")
            )
        residuals = [layer.residual for layer in self.layers]
        if residuals and max(residuals) > 0:
            zeros = [layer.zero_share for layer in self.layers]
            low, high = f"{min(zeros):.0%}", f"{max(zeros):.0%}"
            lines.append(
                f"  filters     residual at most {max(residuals):.1e}; "
                + (f"{low} to {high}" if low != high else low)
                + " of a layer's numbers are zero"
            )
        weak = [f"{layer.name}: {found}" for layer in self.layers for found in layer.weak]
        lines += [f"  weak        {found}" for found in weak[:4]]
        if len(weak) > 4:
            lines.append(f"  weak        and {len(weak) - 4} more, in the report")
        if self.drift_declared and (self.proof.failures or self.bn in DRIFTING):
            lines.append(f"  {self._drifting()} changes the function; what it changed is above")
        lines += [f"  FAILED      {failure}" for failure in proof.failures if not self.passed]
        return "\n".join(lines)

    def _count(self) -> str:
        if self.split is None:
            names = [layer.name for layer in self.layers]
            named = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            return f"{len(names)} layer{'s' * (len(names) != 1)} morphed ({named})"
        return f"{len(self.layers)} shortcuts morphed, {len(self.left_alone)} there already"

    def _macs(self) -> str:
        if self.macs_before is None or self.macs_after is None:
            return "not counted: no input size is known"
        return f"{self.macs_before:,} -> {self.macs_after:,} ({self.macs_after / self.macs_before:.3f}x)"

    def _drifting(self) -> str:
        if self.bn in DRIFTING:
            return f"bn={self.bn}"
        unsolved = any(not layer.residual <= TOLERANCE for layer in self.layers)
        return "a filter without an exact solution" if unsolved else f"padding={self.padding}"


def noise_in_words(ratio: float, difference: float, size: float) -> str:
    """How far logits with batch statistics differ: of the parent's own noise, where it has any, else of their size."""
    if not ratio and difference:
        return f"{difference / max(size, 1e-300):.1e} of their size"
    return f"{ratio:.2f} of the parent's own noise" if ratio >= 0.005 else f"{ratio:.0e} of the parent's own noise"


def _finite(value: Any) -> Any:
    """``value`` with None in the place of every number that is none."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MorphError(Exception):
    """The child failed its proof; ``report`` says by how much. Nothing was changed."""

    exit_code = 3  # of the command line

    def __init__(self, report: MorphReport) -> None:
        self.report = report
        message = f"morph {report.spec} failed its proof: " + "; ".join(report.proof.failures)
        if all(failure.startswith("training mode") for failure in report.proof.failures):
            message += (
                " (evaluation is exact: give more or larger calibration batches, or take allow_inexact=True in Python)"
            )
        super().__init__(message)
