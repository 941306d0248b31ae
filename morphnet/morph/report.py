"""The report of a morph: what was done, and the difference of parent and child."""

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
        residual: relative, of the morphism equation, in float64; 0 if filters were only padded with zeros.
        condition: condition number of the solved system; 1 without one.
        zero_share: share of exact zeros in the filters of the shortcut.
        seconds: time to solve and write them.
        shape: of the new shortcut.
        module: the shape of the new module as plain values, if the layer became one.
        outcome: of the solver, in words.
        weak: descriptions of filters and paths that are too small to learn.
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
    """The report of a morph; :meth:`to_dict` is ``morph_report.json``.

    Attributes:
        spec: the morph spec, or each name pattern with its operation.
        bn, padding, split, width, activation: settings of the new parts; a shortcut that was morphed before keeps its
            own, which are in ``layers``. Only a spec has split and width.
        method: how filters were found.
        layers: one entry per shortcut or layer that changed.
        left_alone: blocks that already had the form of the spec.
        proof: the comparison of parent and child.
        drift_declared: the settings change the function, so that the proof is only a measurement.
        inputs: a description of the images for statistics and proof.
        macs_before, macs_after: multiply-accumulates for one image of ``input_size``; None if that is unknown.
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
        """Whether the child computes what the parent computes, or its drift is declared and finite."""
        if self.drift_declared:
            alone = self.proof.alone
            solved = all(layer.residual <= TOLERANCE for layer in self.layers)
            if solved and alone is not None and not alone.relative <= self.proof.tolerance["exactness"]:
                return False  # only the border may drift
            return math.isfinite(self.proof.exactness.relative) and math.isfinite(self.proof.delivered.relative)
        return not self.proof.failures

    def to_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "failures": list(self.proof.failures), "passed": self.passed}
        return {key: _finite(value) for key, value in values.items()}

    def __str__(self) -> str:
        proof, training = self.proof, self.proof.training
        macs = "not counted: no input size is known"
        if self.macs_before is not None and self.macs_after is not None:
            macs = f"{self.macs_before:,} -> {self.macs_after:,} ({self.macs_after / self.macs_before:.3f}x)"
        lines = [
            f"{self.spec}, bn={self.bn}: {self._count()}",
            *([] if self.layers else ["  note        all that it touches was there already: the child is the parent"]),
            f"  FLOP        {macs}",
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
        weak = [f"{layer.name}: {part}" for layer in self.layers for part in layer.weak]
        lines += [f"  weak        {part}" for part in weak[:4]]
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

    def _drifting(self) -> str:
        if self.bn in DRIFTING:
            return f"bn={self.bn}"
        unsolved = any(not layer.residual <= TOLERANCE for layer in self.layers)
        return "a filter without an exact solution" if unsolved else f"padding={self.padding}"


def noise_in_words(ratio: float, difference: float, size: float) -> str:
    """The difference of logits with batch statistics, over the parent's noise, or over their size if it has none."""
    if not ratio and difference:
        return f"{difference / max(size, 1e-300):.1e} of their size"
    return f"{ratio:.2f} of the parent's own noise" if ratio >= 0.005 else f"{ratio:.0e} of the parent's own noise"


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MorphError(Exception):
    """The child failed its proof, with its ``report``. The parent is unchanged."""

    exit_code = 3  # of the command line

    def __init__(self, report: MorphReport) -> None:
        self.report = report
        message = f"morph {report.spec} failed its proof: " + "; ".join(report.proof.failures)
        if all(failure.startswith("training mode") for failure in report.proof.failures):
            message += (
                " (evaluation is exact: give more or larger calibration batches, or take allow_inexact=True in Python)"
            )
        super().__init__(message)
