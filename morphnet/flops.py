"""What a network costs: multiply-accumulates, the paper's FLOP."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(network: nn.Module, input_size: Sequence[int] = (1, 3, 32, 32)) -> int:
    """Multiply-accumulates of one forward pass over an input of ``input_size``, ``(N, C, H, W)``.

    Those of convolutions and matrix products, as PyTorch's ``FlopCounterMode`` counts them, which is the
    paper's FLOP; batch normalisation, activations and pooling cost none. Nothing is computed: a copy of the
    network runs on the meta device, in evaluation mode.

    Raises:
        ValueError: the network does not take an input of this size.
    """
    if not all(isinstance(n, int) and n > 0 for n in input_size):
        raise ValueError(f"input_size={input_size!r}: positive whole numbers (N, C, H, W) are needed")
    with torch.device("meta"):
        copied = copy.deepcopy(network).to("meta").eval()
        x = torch.empty(tuple(input_size), dtype=next((p.dtype for p in network.parameters()), torch.float32))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            try:
                copied(x)
            except RuntimeError as error:
                raise ValueError(f"the network does not take an input of size {tuple(input_size)}: {error}") from error
    return counter.get_total_flops() // 2


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in network.parameters())
