"""A shortcut split into two scaled halves of the identity, one or both of them morphed (Fig. 3b)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from morphnet.nn.activation import ParametricActivation

Padding = Literal["same", "exact"]


@dataclass(frozen=True)
class ShortcutShape:
    """Everything that builds a morphed shortcut except its weights.

    Attributes:
        kernel_sizes: (K_1, K_2) of each morphed half.
        mid_channels: C_l, the channels between the two convolutions.
        two_branches: both halves are morphed; otherwise the second stays a scaled identity.
        split: the share of the identity that the first half computes, in (0, 1).
        padding: ``same``: each convolution pads (the paper's layers); ``exact``: only the first one pads, for both.
        activation: phi of the parametric activation between the two convolutions.
    """

    kernel_sizes: tuple[int, int]
    mid_channels: int
    two_branches: bool = False
    split: float = 0.5
    padding: Padding = "same"
    activation: str = "relu"

    @property
    def shares(self) -> tuple[float, float]:
        """The scale of the identity in each half; their sum is 1."""
        return (self.split, 1.0 - self.split)


class Branch(nn.Module):
    """conv K_1 - BN - P-phi - conv K_2 - BN: one half of an identity shortcut, morphed.

    :mod:`morphnet.morph` sets filters and batch normalisations so that the branch computes its share of the identity.

    Shapes: ``(N, C, H, W)`` to the same. Source: Fig. 3b.
    """

    def __init__(self, channels: int, shape: ShortcutShape) -> None:
        super().__init__()
        radius1, radius2 = (size // 2 for size in shape.kernel_sizes)
        if shape.padding == "exact":
            radius1, radius2 = radius1 + radius2, 0
        k1, k2 = shape.kernel_sizes
        self.conv1 = nn.Conv2d(channels, shape.mid_channels, k1, padding=radius1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.mid_channels)
        self.act = ParametricActivation(shape.activation, shape.mid_channels, a=1.0)
        self.conv2 = nn.Conv2d(shape.mid_channels, channels, k2, padding=radius2, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))


class SplitShortcut(nn.Module):
    """An identity shortcut split into two scaled halves, one or both of them morphed.

    Shapes: ``(N, C, H, W)`` to the same. Source: Sec. 4.1, Fig. 3b.
    """

    def __init__(self, channels: int, shape: ShortcutShape) -> None:
        super().__init__()
        self.shape = shape
        count = 2 if shape.two_branches else 1
        self.branches = nn.ModuleList(Branch(channels, shape) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches[0](x)
        if self.shape.two_branches:
            return y + self.branches[1](x)
        return torch.add(y, x, alpha=self.shape.shares[1])
