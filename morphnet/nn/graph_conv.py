"""A convolution grown into a module: a layer that runs a graph of convolutions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphnet.graph import SINK, SOURCE, ModuleGraph
from morphnet.nn.activation import FUNCTIONS, ParametricActivation
from morphnet.nn.subsample import subsample

Padding = Literal["exact", "same"]

#: (left, right, top, bottom), as ``torch.nn.functional.pad`` takes it; negative values crop.
Rim = tuple[int, int, int, int]


@dataclass(frozen=True)
class ConvShape:
    """The settings of ``nn.Conv2d``, padding as a rim."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    rim: Rim = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvShape:
        """The shape of ``conv``; ``padding="same"`` and ``"valid"`` become numbers."""
        # From `padding` itself: code that dilates a network sets it after the layer was built.
        rims = []
        for axis in (0, 1):
            if isinstance(conv.padding, str):
                total = conv.dilation[axis] * (conv.kernel_size[axis] - 1) if conv.padding == "same" else 0
                rims.append((total // 2, total - total // 2))
            else:
                rims.append((conv.padding[axis], conv.padding[axis]))
        (top, bottom), (left, right) = rims
        if conv.padding_mode != "zeros":  # which is what `forward` pads by
            left, right, top, bottom = conv._reversed_padding_repeated_twice
        return cls(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            (left, right, top, bottom),
            (conv.dilation[0], conv.dilation[1]),
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
        )

    @classmethod
    def identity(cls, channels: int) -> ConvShape:
        """The 1x1 filter I: what an identity computes."""
        return cls(channels, channels, (1, 1))


@dataclass(frozen=True)
class ModuleShape:
    """Everything that builds a grown convolution except its weights.

    Attributes:
        conv: the convolution it stands for.
        graph: the module.
        padding: ``exact``, one rim of padding before the source and no edge padded, so that every pixel is the
            parent's; ``same``, every edge pads for itself, as in the paper, and the rim differs.
        activation: phi of the parametric activation at inner vertices; None for none.
        norm: whether every convolution is followed by a batch normalisation.
    """

    conv: ConvShape
    graph: ModuleGraph
    padding: Padding = "exact"
    activation: str | None = "relu"
    norm: bool = False

    def __post_init__(self) -> None:
        if self.padding not in ("exact", "same"):
            raise ValueError(f"padding={self.padding!r}; expected 'exact' or 'same'")
        if self.activation is not None and self.activation not in FUNCTIONS:
            raise ValueError(f"activation={self.activation!r}; expected one of {', '.join(FUNCTIONS)}, or None")

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "conv": asdict(self.conv), "graph": self.graph.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModuleShape:
        """The shape that :meth:`to_dict` wrote; lists in place of tuples are welcome (JSON).

        Raises:
            ValueError: a key is missing, unknown, or of the wrong kind.
        """
        try:
            conv: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["conv"].items()}
            return cls(**{**values, "conv": ConvShape(**conv), "graph": ModuleGraph.from_dict(values["graph"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the description of a grown convolution: {error}") from error


@dataclass(frozen=True)
class _Run:
    """One edge in the order it is run: plain values, which ``torch.compile`` reads as constants."""

    key: str
    source: int
    target: int
    scale: float | None
    pad: Rim
    padding: tuple[int, int]  # the same done by the convolution itself, where it can
    stride: tuple[int, int]
    first: bool


class GraphConv2d(nn.Module):
    """A module of convolutions in the place of one: ``s`` is the input, ``t`` the output.

    Each convolution is followed by its batch normalisation, if any; blobs are added; the parametric activation
    follows the sum, at inner vertices only. A bias belongs to the sink, and if the parent has one, to every inner
    vertex too. Convolutions are ``convs[name]`` with the edge's name (``s-t-1`` for ``s-t.1``), activations
    ``activations[vertex]``, biases ``biases[vertex]``.

    The stride is that of the edges into the sink, or of those out of the source where all that follows is 1x1. With
    groups, every convolution has as many.

    Built with torch's default initial weights: :func:`~morphnet.morph.morph_conv` solves for the parent's function.

    Shapes: ``(N, C_i, H, W)`` to what the parent gives. Source: Definition 2, Sec. 3.7.
    """

    def __init__(self, shape: ModuleShape) -> None:
        super().__init__()
        self.shape = shape
        conv, graph = shape.conv, shape.graph
        # Attributes that the code of a network may read from the layer that was here.
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.dilation, self.groups = conv.dilation, conv.groups
        self.widths = group_widths(graph, conv)
        self.source_pad, self._runs = _wiring(shape)
        self.pad_mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        self._vertices = len(graph.vertices)
        self.convs, self.norms = nn.ModuleDict(), nn.ModuleDict()
        self.activations, self.biases = nn.ModuleDict(), nn.ParameterDict()
        for run, edge in zip(self._runs, _ordered(graph), strict=True):
            if edge.identity:
                continue
            self.convs[run.key] = nn.Conv2d(
                self.widths[edge.source],
                self.widths[edge.target],
                edge.kernel,
                run.stride,
                run.padding,
                dilation=conv.dilation,
                groups=conv.groups,
                bias=False,
            )
            if shape.norm:
                self.norms[run.key] = nn.BatchNorm2d(self.widths[edge.target])
        self._keys = tuple(_key(vertex) for vertex in graph.vertices)
        for vertex, key in zip(graph.vertices, self._keys, strict=True):
            width = self.widths[vertex]
            if vertex in graph.inner and shape.activation is not None:
                self.activations[key] = ParametricActivation(shape.activation, width, a=1.0)
            if conv.bias and vertex != SOURCE:
                self.biases[key] = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Sets the biases of vertices to zero; convolutions, norms and activations reset themselves."""
        for bias in self.biases.values():
            nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.dim() == 4, "a module takes batches of images, (N, C, H, W)")
        blobs: list[Tensor | None] = [None] * self._vertices
        blobs[0] = _rim(x, self.source_pad, self.pad_mode, self.shape)
        for run in self._runs:
            blob = blobs[run.source]
            assert blob is not None
            if run.first:  # the sum is complete
                blob = blobs[run.source] = self._finish(blob, run.source)
            if any(run.pad):
                blob = F.pad(blob, run.pad, self.pad_mode if min(run.pad) >= 0 else "constant")
            if run.scale is None:
                y = self.convs[run.key](blob)
                if run.key in self.norms:
                    y = self.norms[run.key](y)
            else:
                if run.stride != (1, 1):
                    blob = subsample(blob, run.stride)
                y = blob if run.scale == 1 else run.scale * blob
            before = blobs[run.target]
            blobs[run.target] = y if before is None else before + y
        last = blobs[self._vertices - 1]
        assert last is not None
        return self._finish(last, self._vertices - 1)

    def _finish(self, blob: Tensor, vertex: int) -> Tensor:
        """Bias and activation of a vertex."""
        key = self._keys[vertex]
        if key in self.biases:
            blob = blob + self.biases[key].to(blob.dtype).view(1, -1, 1, 1)
        return self.activations[key](blob) if key in self.activations else blob

    def extra_repr(self) -> str:
        conv = self.shape.conv
        return (
            f"{conv.in_channels}, {conv.out_channels}, kernel_size={conv.kernel_size}, stride={conv.stride}, "
            f"padding={self.shape.padding}, edges=[{', '.join(map(str, self.shape.graph.edges))}]"
        )


def edge_key(name: str) -> str:
    """The name of an edge's convolution in ``convs``: module names hold no dots."""
    return name.replace(".", "-")


def group_widths(graph: ModuleGraph, conv: ConvShape) -> dict[str, int]:
    """Channels of every vertex.

    Raises:
        ValueError: with groups, a width that they do not divide.
    """
    widths = graph.widths(conv.in_channels, conv.out_channels)
    for vertex in graph.inner:
        if widths[vertex] % conv.groups:
            raise ValueError(
                f"vertex {vertex!r} has {widths[vertex]} channels, which the {conv.groups} groups of the convolution "
                "do not divide; give it a multiple"
            )
    return widths


def _ordered(graph: ModuleGraph) -> list[Any]:
    """Edges ordered by their source vertex, so that a blob is complete before it is used."""
    return [edge for vertex in graph.vertices for edge in graph.edges_out_of(vertex)]


def _wiring(shape: ModuleShape) -> tuple[Rim, tuple[_Run, ...]]:
    conv, graph = shape.conv, shape.graph
    place = {vertex: i for i, vertex in enumerate(graph.vertices)}
    reach = graph.radius_to_sink()
    at_source = strides_at_source(graph)
    # The parent's kernel about its centre: an even one has one tap fewer after the centre than before it.
    centre = [size // 2 for size in conv.kernel_size]
    behind = [(c * d, (size - 1 - c) * d) for c, size, d in zip(centre, conv.kernel_size, conv.dilation, strict=True)]
    left, right, top, bottom = conv.rim
    spare: Rim = (left - behind[1][0], right - behind[1][1], top - behind[0][0], bottom - behind[0][1])
    if shape.padding == "exact":
        rows, columns = (graph.radius[axis] * conv.dilation[axis] for axis in (0, 1))
        source_pad: Rim = (spare[0] + columns, spare[1] + columns, spare[2] + rows, spare[3] + rows)
    else:
        source_pad = (max(spare[0], 0), max(spare[1], 0), max(spare[2], 0), max(spare[3], 0))
    runs = []
    for edge in _ordered(graph):
        last = edge.target == SINK
        stride = conv.stride if (at_source and edge.source == SOURCE) or (not at_source and last) else (1, 1)
        if shape.padding == "exact":
            crop = [
                (reach[edge.source][axis] - reach[edge.target][axis] - edge.radius[axis]) * conv.dilation[axis]
                for axis in (0, 1)
            ]
            pad: Rim = (-crop[1], -crop[1], -crop[0], -crop[0])
        else:
            rows, columns = (edge.radius[axis] * conv.dilation[axis] for axis in (0, 1))
            pad = (columns, columns, rows, rows)
            if (edge.source == SOURCE) if at_source else last:  # a parent that pads less gives a smaller output
                less = [min(value, 0) for value in spare]
                pad = (pad[0] + less[0], pad[1] + less[1], pad[2] + less[2], pad[3] + less[3])
        padding = (0, 0)
        if conv.padding_mode == "zeros":
            if edge.source == SOURCE:  # the convolution pads for itself: no padded copy of the input is made
                pad = tuple(a + b for a, b in zip(pad, source_pad, strict=True))  # type: ignore[assignment]
            if not edge.identity and pad[0] == pad[1] >= 0 and pad[2] == pad[3] >= 0:
                padding, pad = (pad[2], pad[0]), (0, 0, 0, 0)
        first = edge is graph.edges_out_of(edge.source)[0] and edge.source != SOURCE
        scale = float(edge.scale) if edge.identity else None
        ends = (place[edge.source], place[edge.target])
        runs.append(_Run(edge_key(edge.name), *ends, scale, pad, padding, stride, first))
    return (0, 0, 0, 0) if conv.padding_mode == "zeros" else source_pad, tuple(runs)


def strides_at_source(graph: ModuleGraph) -> bool:
    """Whether all that follows the edges out of the source is 1x1, so that they may carry the stride."""
    return all(edge.kernel == (1, 1) for edge in graph.edges if edge.source != SOURCE)


def _rim(x: Tensor, pad: Rim, mode: str, shape: ModuleShape) -> Tensor:
    """The parent's own padding in its own mode, then zeros: the module's zero taps meet those."""
    if not any(pad):
        return x
    own = shape.conv.rim if shape.padding == "exact" else pad
    if any(own):
        x = F.pad(x, own, mode)
    rest = (pad[0] - own[0], pad[1] - own[1], pad[2] - own[2], pad[3] - own[3])
    return F.pad(x, rest) if any(rest) else x


def _key(vertex: str) -> str:
    """A name for what belongs to a vertex that ``nn.ModuleDict`` and ``nn.ParameterDict`` accept."""
    taken = hasattr(nn.ModuleDict(), vertex) or hasattr(nn.ParameterDict(), vertex)
    return f"{vertex}-" if taken else vertex  # no vertex has a name with "-"
