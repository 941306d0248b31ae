"""Diagnostics of training: slopes, norms, drift and movement of a network, at evaluations and in its first steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from morphnet.nn.activation import ParametricActivation
from morphnet.nn.branch import SplitShortcut
from morphnet.nn.graph_conv import GraphConv2d
from morphnet.nn.mode import evaluation_mode, without_tf32
from morphnet.store import write_whole

#: Columns of ``watch.csv``: means over the steps since the row before, then the state at that step.
COLUMNS = (
    "step", "lr", "loss", "error", "slopes_in_modules", "slopes_elsewhere", "moved_new", "moved_kept", "growth",
)  # fmt: skip


class Diagnostics:
    """What is measured in a network at every evaluation.

    ``slopes/<activation>``: the mean slope ``a`` of each parametric activation (1: linear, Eq. 8). ``norms/weights``
    and ``norms/gradients`` of convolutions and linear layers, the gradient that of the last step. ``bn_drift``: how far
    running means are from where the phase began, in standard deviations they had there, root mean square over channels,
    mean over layers. After a morph the last three are separate: ``..._kept`` for layers that existed before,
    ``..._new`` for the others.

    Args:
        kept: names of parameters that existed before the morph; empty without one.
        start: loads the network that the phase began with.
    """

    def __init__(self, kept: frozenset[str], start: Callable[[], nn.Module]) -> None:
        self.kept, self._load = kept, start
        self._start: dict[str, nn.BatchNorm2d] | None = None

    @torch.no_grad()
    def measure(self, network: nn.Module, gradients: bool = True) -> dict[str, float]:
        """Every metric by its name; only those that are finite.

        Args:
            gradients: False where those of ``network`` are scaled, as in float16.
        """
        if self._start is None:
            self._start = _norms(self._load())
        metrics = {
            f"slopes/{name}": float(module.a.mean())
            for name, module in network.named_modules()
            if isinstance(module, ParametricActivation)
        }
        weights = [(name, p) for name, p in network.named_parameters() if p.dim() > 1]
        for group, chosen in self._groups(name for name, _ in weights).items():
            metrics[f"norms/weights{group}"] = _norm(p for name, p in weights if name in chosen)
            last = [p.grad for name, p in weights if name in chosen and p.grad is not None]
            if last and gradients:
                metrics[f"norms/gradients{group}"] = _norm(last)
        drifts = {f"{name}.weight": _drift(norm, self._start[name]) for name, norm in _norms(network).items()}
        for group, chosen in self._groups(drifts).items():
            values = [value for name, value in drifts.items() if name in chosen]
            metrics[f"bn_drift/running_mean{group}"] = math.fsum(values) / len(values)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _groups(self, names: Iterable[str]) -> dict[str, set[str]]:
        """``names`` by suffix: kept and new ones where there are both, else all of them without a suffix."""
        names = set(names)
        kept = names & self.kept
        groups = {"_kept": kept, "_new": names - kept} if kept and names - kept else {"": names}
        return {suffix: chosen for suffix, chosen in groups.items() if chosen}


class FirstSteps:
    """``watch.csv`` of a phase: one row for every ``every`` of its first ``steps`` steps.

    ``loss`` and ``error`` are means over the training images since the row before. ``slopes_in_modules`` is the mean
    of the slopes ``a`` in morphed modules, which begin at 1 (Eq. 8), ``slopes_elsewhere`` that of all others.
    ``moved_new`` and ``moved_kept``: the distance of the weights of new and of kept layers from their start, over the
    norm they had there. ``growth``: the distance of a morphed module's output from its output at the start, on the
    same input, over the norm of the latter; in evaluation mode, on ``images``; the mean over modules, then each.

    Args:
        path: of the file.
        start: loads the network that the phase began with.
        kept: names of parameters that existed before the morph.
        images: normalised, shape ``(N, C, H, W)``.
    """

    def __init__(
        self, path: Path, start: Callable[[], nn.Module], kept: frozenset[str], images: Tensor, steps: int, every: int
    ) -> None:
        self.path, self.kept, self.images, self.steps, self.every = path, kept, images, steps, every
        self._load = start
        self._start: nn.Module | None = None

    def is_due(self, step: int) -> bool:
        return step <= self.steps and step % self.every == 0

    def begin(self, network: nn.Module) -> None:
        """Writes the header and the row of step 0."""
        header = ",".join([*COLUMNS, *(f"growth:{name}" for name in grown_modules(network))])
        write_whole(self.path, f"{header}\n{_row(0, ('', '', ''), self._measure(network))}".encode())

    def resume(self, step: int) -> None:
        """Removes the rows of steps after ``step``, which are trained again."""
        if self.path.is_file():
            header, *rows = self.path.read_text().splitlines(keepends=True)
            write_whole(self.path, "".join([header, *(r for r in rows if int(r.split(",")[0]) <= step)]).encode())

    def write(self, network: nn.Module, step: int, steps_csv: Path, batch_size: int) -> dict[str, float]:
        """Writes the row of ``step``, and returns its values by TensorBoard tag.

        Args:
            steps_csv: where loss and errors of the steps so far are.
        """
        measured = self._measure(network)
        with open(steps_csv, encoding="ascii") as file:
            rows = list(csv.DictReader(file))[step - self.every : step]
        loss = math.fsum(float(row["loss"]) for row in rows) / len(rows)
        error = sum(int(row["errors"]) for row in rows) / (len(rows) * batch_size)
        with open(self.path, "a", encoding="ascii") as file:
            file.write(_row(step, (rows[-1]["lr"], repr(loss), repr(error)), measured))
        values = {"loss": loss, "error": error, **measured}
        return {f"after_morph/{name}": value for name, value in values.items() if not math.isnan(value)}

    def _measure(self, network: nn.Module) -> dict[str, float]:
        weight = next(network.parameters())
        if self._start is None:
            self._start = self._load().to(weight.device).to(weight.dtype).eval()
        modules = grown_modules(network)
        start = dict(self._start.named_parameters())
        inside: list[Tensor] = []
        elsewhere: list[Tensor] = []
        for name, module in network.named_modules():
            if isinstance(module, ParametricActivation):
                (inside if any(name.startswith(f"{grown}.") for grown in modules) else elsewhere).append(module.a)
        weights = {name: p for name, p in network.named_parameters() if p.dim() > 1}
        growth = _growth(network, self._start, modules, self.images.to(weight.device).to(weight.dtype))
        return {
            "slopes_in_modules": _mean(inside),
            "slopes_elsewhere": _mean(elsewhere),
            "moved_new": _moved({n: p for n, p in weights.items() if n not in self.kept}, start),
            "moved_kept": _moved({n: p for n, p in weights.items() if n in self.kept}, start),
            "growth": math.fsum(growth.values()) / len(growth) if growth else math.nan,
            **{f"growth:{name}": value for name, value in growth.items()},
        }


def grown_modules(network: nn.Module) -> list[str]:
    """Names of the morphed shortcuts and layers of ``network``."""
    return [name for name, module in network.named_modules() if isinstance(module, (SplitShortcut, GraphConv2d))]


def _norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch normalisations that have running statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    }


def _drift(norm: nn.BatchNorm2d, start: nn.BatchNorm2d) -> float:
    """The distance of the running means of ``norm`` from those of ``start``, in deviations of the latter."""
    deviation = (start.get_buffer("running_var").cpu() + start.eps).sqrt()
    distance = (norm.get_buffer("running_mean").cpu() - start.get_buffer("running_mean").cpu()) / deviation
    return float(distance.double().square().mean().sqrt())


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(math.fsum(float(t.detach().double().square().sum()) for t in tensors))


@torch.no_grad()
def _growth(network: nn.Module, start: nn.Module, modules: list[str], images: Tensor) -> dict[str, float]:
    """For each module the distance of its output from the start's, on its present input."""
    growth: dict[str, float] = {}

    def compared_with(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def compare(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            expected = start.get_submodule(name)(inputs[0])
            growth[name] = float((output - expected).norm() / expected.norm().clamp_min(1e-30))

        return compare

    hooks = [network.get_submodule(name).register_forward_hook(compared_with(name)) for name in modules]
    try:
        with evaluation_mode(network), without_tf32():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return growth


@torch.no_grad()
def _moved(weights: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """The distance of ``weights`` from those of ``start``, over the norm of the latter; NaN without any."""
    if not weights:
        return math.nan
    distance = math.fsum(float((p.double() - start[name].double()).square().sum()) for name, p in weights.items())
    norm = math.fsum(float(start[name].double().square().sum()) for name in weights)
    return math.sqrt(distance / max(norm, 1e-300))


def _mean(slopes: list[Tensor]) -> float:
    return float(torch.cat([a.detach().flatten() for a in slopes]).double().mean()) if slopes else math.nan


def _row(step: int, trained: tuple[str, str, str], measured: Mapping[str, float]) -> str:
    cells = ["" if math.isnan(value) else f"{value:.6g}" for value in measured.values()]
    return ",".join([str(step), *trained, *cells]) + "\n"
