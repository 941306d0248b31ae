"""Picture of the filters of a module: how much each tap of each edge carries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from morphnet.graph import Edge

#: Inches of one panel, and of its title.
PANEL, HEAD = 1.5, 0.38
COLUMNS = 8


def draw_filters(rows: Mapping[str, Mapping[Edge, Any]]) -> Figure:
    """One row of panels for each solution, one panel for each edge: the norms of its taps.

    Args:
        rows: by title, the filters of each edge, tensors ``(C_target, C_source, H, W)``. All of the same graph.

    A tap is dark where its norm over channels is large, relative to the largest of its filter; a zero tap is crossed
    out. The number is the share of zeros.
    """
    count = max(len(filters) for filters in rows.values())
    columns = min(count, COLUMNS)
    lines = math.ceil(count / columns)
    height = len(rows) * (lines * (PANEL + HEAD) + HEAD) + 0.35
    figure = Figure(figsize=(columns * (PANEL + 0.2), height))
    top = height
    figure.text(
        0.01, 0.08 / height, "colour: norm of the tap, of the largest of its filter; X: exactly zero", fontsize=9
    )
    for title, filters in rows.items():
        top -= HEAD
        figure.text(0.01, (top + 0.02) / height, title, fontsize=11, fontweight="bold", va="bottom")
        for i, (edge, weight) in enumerate(filters.items()):
            line, column = divmod(i, columns)
            bottom = top - (line + 1) * (PANEL + HEAD)
            axes = figure.add_axes(
                (
                    (column * (PANEL + 0.2) + 0.1) / (columns * (PANEL + 0.2)),
                    bottom / height,
                    PANEL / (columns * (PANEL + 0.2)),
                    PANEL / height,
                )
            )
            norms = weight.double().square().sum((0, 1)).sqrt().cpu().numpy()
            axes.imshow(norms / max(norms.max(), 1e-300), cmap="Blues", vmin=0, vmax=1.25)
            for y, x in zip(*(norms == 0).nonzero(), strict=True):
                axes.plot([x - 0.3, x + 0.3], [y - 0.3, y + 0.3], color="#c2410c", linewidth=1)
                axes.plot([x - 0.3, x + 0.3], [y + 0.3, y - 0.3], color="#c2410c", linewidth=1)
            axes.set_xticks([])
            axes.set_yticks([])
            zeros = float((weight == 0).double().mean())
            axes.set_title(f"{edge.name}, zeros {zeros:.0%}", fontsize=9)
        top -= lines * (PANEL + HEAD)
    return figure
