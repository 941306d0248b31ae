"""The control ``linear``: the child with its new slopes held at 1, and what it costs as plain convolutions."""

from __future__ import annotations

from collections.abc import Container

from torch import nn

from morphnet.morph import collapse
from morphnet.nn.activation import ParametricActivation
from morphnet.train.diagnostics import grown_modules


def hold_slopes(network: nn.Module, before: Container[str]) -> list[str]:
    """Takes the slopes of new modules out of training, so that they stay at the 1 of their morph (Eq. 8).

    A saved network does not say what is trained: this is done as every phase starts, before its optimizer is made.

    Args:
        before: names of the parameters of the run's first network. Their slopes are trained, and so are those outside
            modules, which a spec makes parametric with a = 0.

    Returns:
        The names of the parameters that are held.
    """
    grown = tuple(f"{name}." for name in grown_modules(network))
    held = []
    for name, part in network.named_modules():
        if isinstance(part, ParametricActivation) and name.startswith(grown) and f"{name}.a" not in before:
            part.a.requires_grad_(False)
            held.append(f"{name}.a")
    return held


def collapsed_cost(network: nn.Module, input_size: tuple[int, ...]) -> dict[str, int | None]:
    """What ``network`` costs once its linear modules are one convolution each, as ``morphnet collapse`` makes them.

    A module with a slope that is not exactly 1 counts as it is, and so does one that is no convolution at its borders.

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
