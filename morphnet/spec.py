"""The notation of Sec. 4.1, ``{k1}c{k2}[_2branch][_half]``, as a value."""

from __future__ import annotations

import re
from dataclasses import dataclass

from morphnet.graph import SINK, SOURCE, Edge, ModuleGraph

SUFFIXES = ("2branch", "half")


@dataclass(frozen=True)
class MorphSpec:
    """What the residual shortcuts that a morph changes become.

    Attributes:
        kernel_sizes: (K_1, K_2), the odd kernel sizes of the two new convolutions.
        two_branches: morph both scaled halves of the identity instead of one.
        half: change only the blocks with odd index, counted from 0 within a stage.

    Source: Sec. 4.1.
    """

    kernel_sizes: tuple[int, int]
    two_branches: bool = False
    half: bool = False

    def __str__(self) -> str:
        k1, k2 = self.kernel_sizes
        return f"{k1}c{k2}" + "_2branch" * self.two_branches + "_half" * self.half


def parse_spec(text: str) -> MorphSpec:
    """The :class:`MorphSpec` written as ``{k1}c{k2}[_2branch][_half]``, with odd kernel sizes.

    Raises:
        TypeError: ``text`` is not a string.
        ValueError: ``text`` does not have this form.
    """
    if not isinstance(text, str):
        raise TypeError(f"a morph spec is a string such as '1c1_half'; got {type(text).__name__}")
    head, *suffixes = text.split("_")
    match = re.fullmatch(r"([0-9]+)c([0-9]+)", head)
    if match is None:
        raise ValueError(
            f"morph spec {text!r}: {head!r} is not a pair of kernel sizes; "
            "expected {k1}c{k2}[_2branch][_half], for example 1c1, 3c1_half or 1c1_2branch"
        )
    kernel_sizes = (int(match[1]), int(match[2]))
    for size in kernel_sizes:
        if size % 2 == 0:
            raise ValueError(f"morph spec {text!r}: kernel size {size} is not odd; use 1, 3, 5, ...")
    for suffix in suffixes:
        if suffix not in SUFFIXES:
            raise ValueError(f"morph spec {text!r}: unknown suffix {suffix!r}; expected 'half' or '2branch'")
    if suffixes != [s for s in SUFFIXES if s in suffixes]:
        raise ValueError(
            f"morph spec {text!r}: suffixes out of order or repeated; write them as {{k1}}c{{k2}}[_2branch][_half]"
        )
    return MorphSpec(kernel_sizes, two_branches="2branch" in suffixes, half="half" in suffixes)


def spec_graph(spec: MorphSpec) -> ModuleGraph:
    """The module that replaces an identity shortcut: one branch beside half of it, or two branches.

    Ignores ``half``, which selects blocks. Source: Fig. 3b, Sec. 4.1.
    """
    k1, k2 = spec.kernel_sizes
    edges = [Edge(SOURCE, "a", k1), Edge("a", SINK, k2)]
    if spec.two_branches:
        edges += [Edge(SOURCE, "b", k1), Edge("b", SINK, k2)]
    else:
        edges.append(Edge(SOURCE, SINK, identity=True, scale=0.5))
    return ModuleGraph(edges)
