"""Batch normalisation as the identity (Eq. 9): what new layers need from the data, and how they are set."""

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

#: Settings that change the function and say so, instead of failing their check.
DRIFTING = ("paper", "paper_first")


@dataclass
class BatchStatistics:
    """Mean and variance of the input of one batch normalisation, averaged over batches; shape ``(C,)``."""

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
    """Within this context every batch normalisation of ``network`` uses the statistics of its batch.

    All else is in evaluation mode (dropout stays off), and no running value has changed at the end.
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

    The child runs once over ``batches`` in training mode. A layer that is to be the identity passes its input
    through while it is measured, so what is measured are the blobs of the parent in training mode.

    Args:
        child: the network the branches are part of; only the new layers (and, with ``folded``, the second
            filter of each branch) are changed.
        setting: ``calibrated``: gamma = sqrt(var + eps), beta = mean, in both. ``folded``: gamma = 1, beta = 0
            in the first, its scale folded into the next filter and its mean into the last beta. ``paper``:
            gamma = 1, beta = 0 in both. ``paper_first``: only in the first.
        batches: images, each of shape ``(N, C, H, W)``.

    Raises:
        ValueError: ``folded`` where the second convolution pads the centred blob (see ``check_foldable``).

    Source: Eq. (9) and Sec. 3.7. The paper sets gamma = 1, beta = 0 everywhere and calls the change negligible.
    """
    passing: list[_BatchNorm] = []
    for branch in branches:
        if setting == "folded":
            check_foldable(branch)
        if setting != "paper":
            passing.append(branch.bn2)
        if setting in ("calibrated", "folded"):
            passing.append(branch.bn1)
    norms = [norm for branch in branches for norm in (branch.bn1, branch.bn2)]
    measured = _measure(child, norms, passing, batches)
    for branch in branches:
        first, second = measured[branch.bn1], measured[branch.bn2]
        with torch.no_grad():
            if setting == "calibrated":
                _set(branch.bn1, first, identity=True)
                _set(branch.bn2, second, identity=True)
            elif setting == "folded":
                _fold(branch, first, second)
            else:
                _set(branch.bn1, first, identity=False)
                _set(branch.bn2, second, identity=setting == "paper_first")


def set_identity_norms(
    child: nn.Module, norms: Sequence[_BatchNorm], batches: Sequence[Tensor], *, paper: bool = False
) -> None:
    """Measures the inputs of ``norms`` and makes each an identity: gamma = sqrt(var + eps), beta = mean.

    Args:
        child: the network (or module) the norms are part of; nothing else in it is changed.
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
    """Refuses to fold where zero padding would pad the centred blob: an error on the border.

    Raises:
        ValueError: the second convolution pads for itself and has taps off its centre.
    """
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
    # On a float32 copy: float64 convolutions are slow on the CPU, and any statistics keep evaluation exact.
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
    # conv2 sees (x - mean) / scale instead of x: its filter takes the scale, and what the mean would have
    # become after it, `shift`, is missing from its output until the last beta puts it back.
    weight = branch.conv2.weight
    shift = (weight * first.mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    weight.mul_((first.var + branch.bn1.eps).sqrt().view(1, -1, 1, 1))
    _set(branch.bn1, first, identity=False)
    _set(branch.bn2, second, identity=True)
    assert branch.bn2.running_mean is not None
    branch.bn2.running_mean.sub_(shift)
