"""``morphnet collapse``: turns near-linear modules back into one convolution each, for inference."""

from __future__ import annotations

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.cli.output import new_folder
from morphnet.config import CollapseConfig


def main() -> None:
    """Collapses the network of ``parent`` and writes it and a report to ``output``."""
    run_job("collapse", collapse_source)


def collapse_source(composed: DictConfig) -> None:
    config = to_dataclass(composed, CollapseConfig)
    with new_folder(config.output) as output:
        from morphnet.cli.networks import load_to_evaluate, write, write_report
        from morphnet.data import evaluation_batches
        from morphnet.morph import collapse

        loaded, data = load_to_evaluate(config)
        size = (1, *data.input_size)
        result, report = collapse(
            loaded.network, tolerance=config.tolerance, images=evaluation_batches(data), input_size=size
        )
        print(report)
        if not report.collapsed:
            raise ValueError(
                "no module is near linear, so nothing was written; a larger tolerance= would change the function"
            )
        write_report(output / "collapse_report.json", report.to_dict())
        write(output, result, loaded, {"collapse": config.tolerance}, config)
