"""The cost of a network: multiply-accumulates, the paper's FLOP, and parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from morphnet.nn.mode import evaluation_mode


def count_macs(network: nn.Module, input_size: Sequence[int] = (1, 3, 32, 32)) -> int:
    """Multiply-accumulates of one forward pass over an input of ``input_size``, ``(N, C, H, W)``.

    Counts convolutions and matrix products, as PyTorch's ``FlopCounterMode`` does; this is the paper's FLOP. Batch
    normalisation, activations and pooling cost none. Computes nothing: the network, or a copy of one with weights, runs
    on the meta device, in evaluation mode.

    Raises:
        ValueError: the network does not take an input of this size.
    """
    if not all(isinstance(n, int) and n > 0 for n in input_size):
        raise ValueError(f"input_size={input_size!r}: positive whole numbers (N, C, H, W) are needed")
    bare = network if _is_bare(network) else copy.deepcopy(network).to("meta")
    with torch.device("meta"), evaluation_mode(bare):
        x = torch.empty(tuple(input_size), dtype=next((p.dtype for p in network.parameters()), torch.float32))
        with FlopCounterMode(display=False) as counter, _ShapesAlone(), torch.no_grad():
            try:
                bare(x)
            except RuntimeError as error:
                raise ValueError(f"the network does not take an input of size {tuple(input_size)}: {error}") from error
    return counter.get_total_flops() // 2


def _is_bare(network: nn.Module) -> bool:
    """Whether all of ``network`` is on the meta device already."""
    values = [*network.parameters(), *network.buffers()]
    return bool(values) and all(value.is_meta for value in values)


class _ShapesAlone(TorchDispatchMode):
    """Skips the free operations between two convolutions, whose meta kernels are dozens of Python calls each.

    Everything else, and whatever may not fit, goes to its own kernel, so that PyTorch can refuse it.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        aten = torch.ops.aten
        if func in (aten.relu.default, aten._prelu_kernel.default, aten.add.Tensor) and _keeps_shape(*args):
            return torch.empty_like(args[0])
        if func is aten.native_batch_norm.default and _normalises(*args[:6]):
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        return func(*args, **(kwargs or {}))


def _keeps_shape(x: Any, *others: Any) -> bool:
    """Whether all are tensors of the dtype, device and rank of ``x`` that broadcast to its shape."""
    return isinstance(x, Tensor) and all(
        isinstance(other, Tensor)
        and (other.dtype, other.device, other.dim()) == (x.dtype, x.device, x.dim())
        and all(small in (1, large) for small, large in zip(other.shape, x.shape, strict=True))
        for other in others
    )


def _normalises(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool
) -> bool:
    """Whether this is a batch normalisation in evaluation mode with the channels of ``x``."""
    if training or mean is None or var is None:
        return False
    return all(value is None or value.shape == x.shape[1:2] for value in (weight, bias, mean, var))


def count_parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in network.parameters())
