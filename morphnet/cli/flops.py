"""``morphnet flops``: every row of Tables 1 to 3, printed and counted."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.config import FlopsConfig

HEADER = ("table", "network", "phases", "paper (million)", "counted", "difference", "paper rel.", "counted rel.")


def main() -> None:
    """Prints the table."""
    run_job("flops", flops)


def flops(composed: DictConfig) -> None:
    config = to_dataclass(composed, FlopsConfig)

    from morphnet.report.table import FORMATS, write_cells

    if config.format not in FORMATS:
        raise ValueError(f"format={config.format!r}; expected one of {', '.join(FORMATS)}")

    from morphnet.report.paper import count_rows

    rows = count_rows()
    if config.format == "json":
        plain = [
            {
                "table": counted.row.table,
                "network": counted.row.name,
                "phases": list(counted.row.via),
                "paper_million": counted.row.flop,
                "macs": counted.macs,
                "difference_million": round(counted.difference, 6),
                "paper_relative": counted.row.relative_flop,
                "relative": counted.relative,
                "agrees": counted.agrees,
            }
            for counted in rows
        ]
        print(json.dumps(plain, indent=1))
        return
    body = [
        [
            str(counted.row.table),
            counted.row.name,
            ", ".join(counted.row.via) or "-",
            f"{counted.row.flop:,.0f}" if counted.row.table == 3 else f"{counted.row.flop:.1f}",
            f"{counted.macs:,}",
            f"{counted.difference:+.3f}",
            f"{counted.row.relative_flop:g}x",
            f"{counted.relative:.3f}x",
        ]
        for counted in rows
    ]
    print(write_cells(HEADER, body, config.format))  # type: ignore[arg-type]
    if config.format == "csv":
        return
    agreeing = sum(counted.agrees for counted in rows)
    comment = "% " if config.format == "latex" else ""
    print(
        f"\n{comment}One FLOP is one multiply-accumulate. {agreeing} of {len(rows)} counts round to the paper's figure."
    )
