"""The morphs of a named layer: to a module, or one of the layer morphs of earlier work."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from morphnet.graph import Edge, ModuleGraph


@dataclass(frozen=True)
class Deepen:
    """A convolution becomes two in series: its own kernel, then ``kernel``.

    With ``method="net2net"`` the second is the identity (Net2DeeperNet); else both are solved for.

    Source: Chen et al. 2015; Wei et al. 2016; TYPE-I of Sec. 3.2.
    """

    kernel: int | tuple[int, int] = 3

    def graph(self, layer: nn.Module) -> ModuleGraph:
        """The module s-a-t whose first edge has the kernel of ``layer``."""
        size = layer.kernel_size if isinstance(layer, nn.Conv2d) else (1, 1)
        odd = tuple(int(k) + 1 - int(k) % 2 for k in size)
        channels: dict[str, int | str] = {"a": layer.out_channels} if isinstance(layer, nn.Conv2d) else {}
        return ModuleGraph([Edge("s", "a", odd), Edge("a", "t", self.kernel)], channels)

    def __str__(self) -> str:
        return f"deepen({self.kernel})"


@dataclass(frozen=True)
class Widen:
    """A convolution gets more output channels; its batch normalisation and consumers are adapted.

    Attributes:
        factor: new over old channels, above 1; their number is rounded up.

    Source: Chen et al. 2015 (Net2WiderNet); Wei et al. 2016.
    """

    factor: float

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)) or not 1 < self.factor < 1e4:
            raise ValueError(f"widen={self.factor!r}: a factor above 1 is needed, and below 10,000, such as 1.5")

    def __str__(self) -> str:
        return f"widen({self.factor:g})"


@dataclass(frozen=True)
class Enlarge:
    """A convolution's kernel grows, padded with zeros.

    Source: Wei et al. 2016.
    """

    kernel: int | tuple[int, int]

    def __str__(self) -> str:
        return f"enlarge({self.kernel})"


#: The values of a pattern of layer names.
Operation = ModuleGraph | Deepen | Widen | Enlarge


def words(operation: Operation) -> str:
    """An operation in a few words, for reports."""
    if isinstance(operation, ModuleGraph):
        return f"module of {len(operation.convolutions)} convolutions"
    return str(operation)
