"""The control ``linear``: the child with its new slopes held at 1, and its cost as plain convolutions."""

from __future__ import annotations

from collections.abc import Container

from torch import nn

from morphnet.morph import collapse
from morphnet.nn.activation import ParametricActivation
from morphnet.train.diagnostics import grown_modules


def hold_slopes(network: nn.Module, before: Container[str]) -> list[str]:
    """Excludes the slopes of new modules from training, so that they stay at 1 (Eq. 8); returns their names.

    A saved network does not say what is trained, so every phase calls this before its optimizer is made.

    Args:
        before: names of the parameters of the run's first network, whose slopes are trained. So are slopes outside
            modules, which a spec makes parametric with a = 0.
    """
    grown = tuple(f"{name}." for name in grown_modules(network))
    held = []
    for name, part in network.named_modules():
        if isinstance(part, ParametricActivation) and name.startswith(grown) and f"{name}.a" not in before:
            part.a.requires_grad_(False)
            held.append(f"{name}.a")
    return held


def collapsed_cost(network: nn.Module, input_size: tuple[int, ...]) -> dict[str, int | None]:
    """The cost of ``network`` after ``morphnet collapse`` has made each of its linear modules one convolution.

    A module counts as it is where a slope is not exactly 1, or where it is not a convolution at the borders.

    Args:
        input_size: ``(N, C, H, W)``.

    Returns:
        ``collapsed_macs`` and ``collapsed_parameters`` for a record; both None where no module can be collapsed.
    """
    macs = parameters = None
    if grown_modules(network):
        _, report = collapse(network, tolerance=0, input_size=input_size)
        if report.collapsed:
            macs, parameters = report.macs_after, report.parameters_after
    return {"collapsed_macs": macs, "collapsed_parameters": parameters}
