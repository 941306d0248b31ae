"""What the training of a phase needs beside its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Optimisation:
    """What training needs beside the learning rate.

    Attributes:
        label_smoothing: of the cross entropy.
        ema: decay of the moving average of the weights, which is evaluated and delivered; 0 for none.
    """

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    label_smoothing: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum={self.momentum}: a number from 0 to below 1 is needed")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"optim.weight_decay={self.weight_decay}: a number from 0 is needed, such as 1e-4")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"optim.label_smoothing={self.label_smoothing}: from 0 to below 1 is needed")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema={self.ema}: a decay from 0 to below 1 is needed, such as 0.999; 0 for none")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov=true needs optim.momentum above 0")


@dataclass(frozen=True)
class Beginning:
    """How a phase begins beside the weights of its network.

    Attributes:
        kept: names of parameters that were there before; they are trained at ``kept_lr`` times the rate.
        momentum: what parameters begin with, by name; zeros for the others.
    """

    kept: frozenset[str] = frozenset()
    kept_lr: float = 1.0
    momentum: Mapping[str, Tensor] = field(default_factory=dict)
