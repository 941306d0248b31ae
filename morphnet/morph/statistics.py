"""Batch normalisation as the identity (Eq. 9): statistics of the data, and how new layers are set."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from morphnet.nn.branch import Branch
from morphnet.nn.mode import evaluation_mode, without_tf32

BNSetting = Literal["calibrated", "folded", "paper", "paper_first"]
BN_SETTINGS: tuple[str, ...] = get_args(BNSetting)

#: Settings that change the function: their difference is reported and no failure.
DRIFTING = ("paper", "paper_first")


@dataclass
class BatchStatistics:
    """Mean and variance of the input of a batch normalisation, averaged over batches; shape ``(C,)``."""

    mean: Tensor
    var: Tensor
    batches: int

    @classmethod
    def zeros(cls, norm: _BatchNorm) -> BatchStatistics:
        return cls(torch.zeros_like(norm.weight), torch.zeros_like(norm.weight), 0)

    def add(self, x: Tensor) -> None:
        dims = [0, *range(2, x.dim())]
        self.batches += 1
        self.mean += (x.mean(dims) - self.mean) / self.batches
        self.var += (x.var(dims, unbiased=True) - self.var) / self.batches


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Within, batch normalisations of ``network`` use the statistics of their batch; their running values are restored.

    All else is in evaluation mode, so dropout is off.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(m, {k: v.clone() for k, v in m.named_buffers()}) for m in norms]
    with evaluation_mode(network):
        try:
            for norm in norms:
                norm.train()
            yield
        finally:
            for norm, buffers in kept:
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)


def set_batch_norms(child: nn.Module, branches: Sequence[Branch], setting: str, batches: Sequence[Tensor]) -> None:
    """Sets the two batch normalisations of each new branch so that the branch computes its share of the identity.

    The child runs once over ``batches`` in training mode. A layer that becomes the identity passes its input through
    meanwhile, so the statistics are those of the parent in training mode.

    Args:
        child: the network of the branches; nothing else in it is changed. ``folded`` changes their second filter too.
        setting: ``calibrated``: gamma = sqrt(var + eps), beta = mean, in both. ``folded``: gamma = 1, beta = 0
            in the first, its scale folded into the next filter and its mean into the last beta. ``paper``:
            gamma = 1, beta = 0 in both. ``paper_first``: only in the first.
        batches: images, each of shape ``(N, C, H, W)``.

    Raises:
        ValueError: ``folded`` where the second convolution pads the centred blob (see ``check_foldable``).

    Source: Eq. (9) and Sec. 3.7. The paper sets gamma = 1, beta = 0 everywhere and calls the change negligible.
    """
    passing = [branch.bn2 for branch in branches] if setting != "paper" else []
    passing += [branch.bn1 for branch in branches] if setting in ("calibrated", "folded") else []
    for branch in branches if setting == "folded" else ():
        check_foldable(branch)
    norms = [norm for branch in branches for norm in (branch.bn1, branch.bn2)]
    measured = _measure(child, norms, passing, batches)
    with torch.no_grad():
        for branch in branches:
            first, second = measured[branch.bn1], measured[branch.bn2]
            if setting == "folded":
                _fold(branch, first, second)
            else:
                _set(branch.bn1, first, identity=setting == "calibrated")
                _set(branch.bn2, second, identity=setting != "paper")


def set_identity_norms(
    child: nn.Module, norms: Sequence[_BatchNorm], batches: Sequence[Tensor], *, paper: bool = False
) -> None:
    """Measures the inputs of ``norms`` and makes each an identity: gamma = sqrt(var + eps), beta = mean.

    Args:
        child: the network (or module) of the norms; nothing else in it is changed.
        batches: inputs of ``child``.
        paper: gamma = 1, beta = 0 instead, as in Sec. 3.7, which changes the function.

    Source: Eq. (9).
    """
    measured = _measure(child, norms, [] if paper else norms, batches)
    with torch.no_grad():
        for norm in norms:
            _set(norm, measured[norm], identity=not paper)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Every batch normalisation in ``network``."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def check_foldable(branch: Branch) -> None:
    """Raises ``ValueError`` if zero padding would pad the centred blob: the border would be wrong."""
    weight = branch.conv2.weight
    centre = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
    if branch.conv2.padding != (0, 0) and weight.count_nonzero() > centre.count_nonzero():
        raise ValueError(
            "bn=folded needs a second filter without taps off its centre, or padding=exact: "
            "zero padding would pad the centred blob; use bn=calibrated"
        )


def _measure(
    child: nn.Module, norms: Sequence[_BatchNorm], passing: Sequence[_BatchNorm], batches: Sequence[Tensor]
) -> dict[_BatchNorm, BatchStatistics]:
    # In float32, because float64 convolutions are slow on the CPU; any statistics keep evaluation exact.
    runner = copy.deepcopy(child).float()
    copies = dict(zip(child.modules(), runner.modules(), strict=True))
    measured = {norm: BatchStatistics.zeros(norm) for norm in norms}
    originals = {copies[norm]: norm for norm in norms}
    through = {copies[norm] for norm in passing}

    def hook(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        measured[originals[norm]].add(inputs[0].double())
        return inputs[0] if norm in through else None

    for norm in originals:
        norm.register_forward_hook(hook)
    with torch.no_grad(), without_tf32(), batch_statistics(runner):
        for batch in batches:
            runner(batch.float())
    return measured


def _set(norm: _BatchNorm, statistics: BatchStatistics, *, identity: bool) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(statistics.mean)
    norm.running_var.copy_(statistics.var)
    norm.weight.copy_((statistics.var + norm.eps).sqrt() if identity else torch.ones_like(norm.weight))
    norm.bias.copy_(statistics.mean if identity else torch.zeros_like(norm.bias))


def _fold(branch: Branch, first: BatchStatistics, second: BatchStatistics) -> None:
    # conv2 gets (x - mean) / scale instead of x: its filter is multiplied by the scale, and the last running mean
    # is reduced by the filtered mean, `shift`.
    weight = branch.conv2.weight
    shift = (weight * first.mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    weight.mul_((first.var + branch.bn1.eps).sqrt().view(1, -1, 1, 1))
    _set(branch.bn1, first, identity=False)
    _set(branch.bn2, second, identity=True)
    assert branch.bn2.running_mean is not None
    branch.bn2.running_mean.sub_(shift)
