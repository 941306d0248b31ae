"""``morphnet morph``: one morph of a trained network, with its proof."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass, to_yaml
from morphnet.config import MorphCommandConfig


def main() -> None:
    """Morphs the network of ``parent`` and writes child and report to ``output``."""
    run_job("morph", morph)


def morph(composed: DictConfig) -> None:
    config = to_dataclass(composed, MorphCommandConfig)
    if not config.output:
        raise ValueError("output is empty: give a new folder")
    output = Path(config.output)
    _check_output(output)

    from morphnet.cli.inputs import data_of_source, load_data, load_parent, normalised
    from morphnet.data import Augmentation, calibration_batches, generator_for
    from morphnet.data.batches import check_calibration
    from morphnet.morph import MorphError, morph_network
    from morphnet.spec import parse_spec
    from morphnet.store import network_hash, save_network
    from morphnet.train import choose_engine

    spec = parse_spec(config.morph)
    data_config = data_of_source(config.parent, config.data)
    data = load_data(data_config)
    parent = load_parent(config.parent, config.network, data, config.weights)
    data = normalised(data, data_config, parent)
    engine = choose_engine(config.device, "float32")
    engine.place(parent)
    check_calibration("calibration_batches", config.calibration_batches, len(data.train))
    key = (config.seed, "calibration")
    augmentation = Augmentation(data_config.pad, data_config.flip)
    try:
        child, report = morph_network(
            parent,
            str(spec),
            calibration=calibration_batches(data, augmentation, key, config.calibration_batches),
            bn=config.bn,
            padding=config.padding,
            activation=config.activation,
            split=config.split,
            width=config.width,
            generator=generator_for(config.seed, "filters"),
        )
    except MorphError as error:
        _write_report(output, error.report.to_dict())
        raise
    lineage = [*parent.metadata.get("lineage", []), {"network": network_hash(parent), "morph": str(spec)}]
    child.metadata.update(
        data=data.name,
        class_names=list(data.class_names),
        input_size=list(data.input_size),
        mean=list(data.mean),
        std=list(data.std),
        lineage=lineage,
    )
    _write_report(output, {**report.to_dict(), "parent_hash": network_hash(parent), "child_hash": network_hash(child)})
    (output / "config.yaml").write_text(to_yaml(composed))
    saved = save_network(child, output / "network.safetensors")
    print(report)
    if not report.layers:
        print(f"note: every shortcut that {spec} touches was there already, so nothing was added")
    print(f"written to  {saved}")


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"output={output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()):
        raise FileExistsError(f"output={output} is not empty; give a new folder, or delete that one")


def _write_report(output: Path, report: dict[str, object]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "morph_report.json").write_text(json.dumps(report, indent=1) + "\n")
