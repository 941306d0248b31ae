"""``morphnet collapse``: modules that stayed near linear become one convolution again, for inference."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass, to_yaml
from morphnet.cli.output import new_folder
from morphnet.config import CollapseConfig


def main() -> None:
    """Collapses the network of ``parent`` and writes it and a report to ``output``."""
    run_job("collapse", collapse_source)


def collapse_source(composed: DictConfig) -> None:
    config = to_dataclass(composed, CollapseConfig)
    with new_folder(config.output) as output:
        _collapse_into(output, config)


def _collapse_into(output: Path, config: CollapseConfig) -> None:
    from morphnet.cli.inputs import data_of_source, load_data, load_parent, normalised
    from morphnet.data import evaluation_batches
    from morphnet.morph import collapse
    from morphnet.nn.metadata import metadata_of
    from morphnet.store import network_hash, save_network
    from morphnet.train import choose_engine

    data_config = data_of_source(config.parent, config.data)
    data = load_data(data_config, evaluation_only=True)
    network = load_parent(config.parent, config.network, data, config.weights)
    engine = choose_engine(config.device, "float32")
    data = normalised(data, data_config, network).to(engine.device)
    engine.place(network.float())
    result, report = collapse(
        network,
        tolerance=config.tolerance,
        images=evaluation_batches(data),
        input_size=(1, *data.input_size),
    )
    print(report)
    if not report.collapsed:
        raise ValueError(
            "no module is near linear, so nothing was written; a larger tolerance= would change the function"
        )
    metadata = metadata_of(result)
    metadata["lineage"] = [
        *metadata.get("lineage", []),
        {"network": network_hash(network), "collapse": config.tolerance},
    ]
    (output / "config.yaml").write_text(to_yaml(asdict(replace(config, data=data_config))))
    (output / "collapse_report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    print(f"written to  {save_network(result, output / 'network.safetensors')}")
