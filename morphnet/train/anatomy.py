"""What training does inside a network: slopes, norms of weights and gradients, drift of batch normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from morphnet.nn.activation import ParametricActivation


class Anatomy:
    """Measures one network in a phase, wherever it is evaluated.

    ``slopes/<activation>``: the mean slope ``a`` of each parametric activation (1: linear, Eq. 8). ``norms/weights``
    and ``norms/gradients`` of convolutions and linear layers, the gradient that of the last step. ``bn_drift``: how far
    running means are from where the phase began, in standard deviations they had there, root mean square over channels,
    mean over layers. Where a morph has come before, the last three are told apart: ``..._kept`` for layers that
    were there, ``..._new`` for the others.

    Args:
        kept: names of parameters that were there before the morph; empty where there was none.
        start: gives the network the phase began with, where :meth:`begin` is not called.
    """

    def __init__(self, kept: frozenset[str], start: Callable[[], nn.Module]) -> None:
        self.kept, self._load = kept, start
        self._means: dict[str, tuple[Tensor, Tensor]] | None = None

    def begin(self, network: nn.Module) -> None:
        """Takes the statistics of ``network`` as those the phase begins with."""
        self._means = {name: _statistics(norm) for name, norm in _norms(network)}

    @torch.no_grad()
    def measure(self, network: nn.Module, gradients: bool = True) -> dict[str, float]:
        """Every metric by its name; none where there is nothing to measure.

        Args:
            gradients: False where those of ``network`` are scaled, as in float16.
        """
        if self._means is None:
            self.begin(self._load())
        assert self._means is not None
        found = {
            f"slopes/{name}": float(module.a.mean())
            for name, module in network.named_modules()
            if isinstance(module, ParametricActivation)
        }
        weights = [(name, p) for name, p in network.named_parameters() if p.dim() > 1]
        for group, chosen in self._groups(name for name, _ in weights).items():
            found[f"norms/weights{group}"] = _norm(p for name, p in weights if name in chosen)
            last = [p.grad for name, p in weights if name in chosen and p.grad is not None]
            if last and gradients:
                found[f"norms/gradients{group}"] = _norm(last)
        drifts = {f"{name}.weight": _drift(norm, *self._means[name]) for name, norm in _norms(network)}
        for group, chosen in self._groups(drifts).items():
            values = [value for name, value in drifts.items() if name in chosen]
            found[f"bn_drift/running_mean{group}"] = math.fsum(values) / len(values)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _groups(self, names: Iterable[str]) -> dict[str, set[str]]:
        """``names`` by suffix: kept and new ones where there are both, else all of them without a suffix."""
        names = set(names)
        kept = names & self.kept
        groups = {"_kept": kept, "_new": names - kept} if kept and names - kept else {"": names}
        return {suffix: chosen for suffix, chosen in groups.items() if chosen}


def _norms(network: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    """The batch normalisations that have running statistics."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    ]


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and deviation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.clone(), (norm.running_var + norm.eps).sqrt()


def _drift(norm: nn.BatchNorm2d, mean: Tensor, deviation: Tensor) -> float:
    assert norm.running_mean is not None
    distance = (norm.running_mean.detach().cpu() - mean.cpu()) / deviation.cpu()
    return float(distance.double().square().mean().sqrt())


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(math.fsum(float(t.detach().double().square().sum()) for t in tensors))
