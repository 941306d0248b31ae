"""What the first steps after a morph do to a network: its slopes, its weights, and how far modules have grown."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from morphnet.nn.activation import ParametricActivation
from morphnet.nn.branch import SplitShortcut
from morphnet.nn.graph_conv import GraphConv2d
from morphnet.nn.mode import evaluation_mode, without_tf32
from morphnet.store import write_whole

#: Of every row: means over the steps since the row before, then what stands at that step.
COLUMNS = (
    "step",
    "lr",
    "loss",
    "error",
    "slopes_in_modules",
    "slopes_elsewhere",
    "moved_new",
    "moved_kept",
    "growth",
)


class Watch:
    """``watch.csv`` of a phase: one row for every ``every`` of its first ``steps`` steps.

    ``loss`` and ``error`` are means over the training images since the row before. ``slopes_in_modules`` is the mean
    of the slopes ``a`` in morphed modules, which begin at 1 (Eq. 8), ``slopes_elsewhere`` that of all others.
    ``moved_new`` and ``moved_kept``: the distance of the weights of new and of kept layers from their start, over the
    norm they had there. ``growth``: how far what a morphed module computes is from what it computed at the start, on
    the same input, over the norm of the latter; in evaluation mode, on ``images``; the mean over modules, then each.

    Args:
        path: of the file.
        start: the network the phase starts with, on the CPU or anywhere.
        kept: names of parameters that were there before the morph.
        images: normalised, shape ``(N, C, H, W)``.
    """

    def __init__(
        self,
        path: Path,
        start: Callable[[], nn.Module],
        kept: frozenset[str],
        images: Tensor,
        steps: int,
        every: int,
    ) -> None:
        self.path, self.kept, self.images, self.steps, self.every = path, kept, images, steps, every
        self._load = start
        self._start: nn.Module | None = None

    def is_due(self, step: int) -> bool:
        return step <= self.steps and step % self.every == 0

    def begin(self, network: nn.Module) -> None:
        """The row of step 0."""
        found = self._measure(network)
        header = [*COLUMNS, *(f"growth:{name}" for name in grown_modules(network))]
        write_whole(self.path, _lines([header, _row(0, ("", "", ""), found)]).encode())

    def resume(self, step: int) -> None:
        """Takes away rows of steps that are done again."""
        if self.path.is_file():
            rows = list(csv.reader(self.path.read_text().splitlines()))
            kept = [row for row in rows if not row[0].isdigit() or int(row[0]) <= step]
            write_whole(self.path, _lines(kept).encode())

    def take(self, network: nn.Module, step: int, steps_log: Path, batch_size: int) -> Iterator[tuple[str, float]]:
        """Writes the row of ``step``, and gives what is in it as (metric, value).

        Args:
            steps_log: ``steps.csv``, where loss and errors of the steps so far are.
        """
        found = self._measure(network)
        with open(steps_log, encoding="ascii") as file:
            rows = list(csv.DictReader(file))[step - self.every : step]
        loss = math.fsum(float(row["loss"]) for row in rows) / len(rows)
        error = sum(int(row["errors"]) for row in rows) / (len(rows) * batch_size)
        with open(self.path, "a", encoding="ascii") as file:
            file.write(_lines([_row(step, (rows[-1]["lr"], repr(loss), repr(error)), found)]))
        values = {"loss": loss, "error": error, **found}
        return ((f"after_morph/{name}", value) for name, value in values.items() if not math.isnan(value))

    def _measure(self, network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        if self._start is None:
            self._start = self._load().to(device).to(next(network.parameters()).dtype).eval()
        start, modules = self._start, grown_modules(network)
        before = dict(start.named_parameters())
        inside: list[Tensor] = []
        elsewhere: list[Tensor] = []
        for name, module in network.named_modules():
            if isinstance(module, ParametricActivation):
                (inside if any(name.startswith(f"{grown}.") for grown in modules) else elsewhere).append(module.a)
        weights = {name: p for name, p in network.named_parameters() if p.dim() > 1}
        growth = _growth(network, start, modules, self.images.to(device).to(next(network.parameters()).dtype))
        return {
            "slopes_in_modules": _mean(inside),
            "slopes_elsewhere": _mean(elsewhere),
            "moved_new": _moved({n: p for n, p in weights.items() if n not in self.kept}, before),
            "moved_kept": _moved({n: p for n, p in weights.items() if n in self.kept}, before),
            "growth": math.fsum(growth.values()) / len(growth) if growth else math.nan,
            **{f"growth:{name}": value for name, value in growth.items()},
        }


def grown_modules(network: nn.Module) -> list[str]:
    """Names of the morphed shortcuts and layers of ``network``."""
    return [name for name, module in network.named_modules() if isinstance(module, (SplitShortcut, GraphConv2d))]


@torch.no_grad()
def _growth(network: nn.Module, start: nn.Module, modules: list[str], images: Tensor) -> dict[str, float]:
    """For each module the distance of its output from the start's, on the input it has now."""
    found: dict[str, float] = {}
    with ExitStack() as stack:
        for name in modules:
            old = start.get_submodule(name)

            hook = partial(_compare, found, name, old)
            stack.callback(network.get_submodule(name).register_forward_hook(hook).remove)
        stack.enter_context(evaluation_mode(network))
        stack.enter_context(without_tf32())
        network(images)
    return found


def _compare(
    found: dict[str, float], name: str, old: nn.Module, module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> None:
    expected = old(inputs[0])
    found[name] = float((output - expected).norm() / expected.norm().clamp_min(1e-30))


@torch.no_grad()
def _moved(weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> float:
    if not weights:
        return math.nan
    distance = math.fsum(float((p.double() - before[name].double()).square().sum()) for name, p in weights.items())
    norm = math.fsum(float(before[name].double().square().sum()) for name in weights)
    return math.sqrt(distance / max(norm, 1e-300))


def _mean(slopes: list[Tensor]) -> float:
    return float(torch.cat([a.detach().flatten() for a in slopes]).double().mean()) if slopes else math.nan


def _row(step: int, trained: tuple[str, str, str], found: Mapping[str, float]) -> list[str]:
    return [str(step), *trained, *("" if math.isnan(value) else f"{value:.6g}" for value in found.values())]


def _lines(rows: list[list[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in rows)
