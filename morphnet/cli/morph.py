"""``morphnet morph``: one morph of a trained network, with its proof."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass, to_yaml
from morphnet.cli.output import new_folder, note
from morphnet.config import DataConfig, MorphCommandConfig

if TYPE_CHECKING:
    from torch import nn

    from morphnet.data import ImageData


def main() -> None:
    """Morphs the network of ``parent`` and writes child and report to ``output``."""
    run_job("morph", morph)


def morph(composed: DictConfig) -> None:
    config = to_dataclass(composed, MorphCommandConfig)
    with new_folder(config.output) as output:
        _morph_into(output, config)


def _morph_into(output: Path, config: MorphCommandConfig) -> None:
    from morphnet.cli.inputs import load_parent
    from morphnet.cli.operations import layer_morphs
    from morphnet.data import generator_for
    from morphnet.morph import InexactError, MorphError, morph_network
    from morphnet.nn.metadata import metadata_of
    from morphnet.spec import parse_spec
    from morphnet.store import network_hash, save_network
    from morphnet.train import choose_engine

    layers = layer_morphs(config)
    if layers is None and config.morph is None:
        raise ValueError(
            "give morph=SPEC (such as 1c1_half) for the shortcuts of a ResNet, or target='layer3.*.conv2' with "
            "module=NAME, deepen=, widen= or enlarge= for named layers; got neither"
        )
    spec = layers if layers is not None else str(parse_spec(str(config.morph)))
    config.check_fits({layers is not None})
    settings = config.settings_of(layers is not None)
    data, data_config = _data(config, needed=settings["bn"] != "none")
    parent = load_parent(config.parent, config.network, data, config.weights, convert=layers is None)
    engine = choose_engine(config.device, "float32")
    engine.place(parent)
    images, facts = _images(config, data, data_config, parent)
    try:
        child, report = morph_network(
            parent, spec, generator=generator_for(config.seed, "filters"), **images, **settings
        )
    except MorphError as error:
        _write_report(output, error.report.to_dict())
        raise
    except InexactError as error:
        _write_report(output, {"passed": False, "failures": [str(error)]})
        raise
    metadata = metadata_of(child)
    metadata.update(facts)
    metadata["lineage"] = [
        *metadata_of(parent).get("lineage", []),
        {"network": network_hash(parent), "morph": report.spec},
    ]
    _write_report(output, {**report.to_dict(), "parent_hash": network_hash(parent), "child_hash": network_hash(child)})
    (output / "config.yaml").write_text(to_yaml(asdict(replace(config, data=data_config))))
    saved = save_network(child, output / "network.safetensors")
    print(report)
    print(f"written to  {saved}")


def _data(config: MorphCommandConfig, *, needed: bool) -> tuple[ImageData | None, DataConfig | None]:
    """The images asked for, or those of the parent's run; None where none are needed, and none are there or named."""
    from morphnet.cli.inputs import data_of_source, load_data

    named = needed or config.data is not None or config.network is not None
    if not named and config.input_size is not None:
        return None, None
    try:
        data_config = data_of_source(config.parent, config.data)
    except ValueError:
        if named:
            raise
        return None, None
    try:
        return load_data(data_config), data_config
    except (FileNotFoundError, ValueError) as error:
        if named:
            raise
        note(f"the proof has random inputs, not the images that {config.parent} is for: {error}")
        return None, None


def _images(
    config: MorphCommandConfig, data: ImageData | None, data_config: DataConfig | None, parent: nn.Module
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the morph is measured and proved on, and what the child's file says of its images."""
    import torch

    from morphnet.cli.inputs import augmentation_of, normalised
    from morphnet.data import calibration_batches
    from morphnet.data.batches import check_calibration
    from morphnet.train.description import facts_of_data

    if data is None or data_config is None:
        if config.input_size is None:
            return {}, {}
        size = config.input_size
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"input_size={size}: [C,H,W] of an image is needed, such as [3,224,224]")
        return {"example_input": torch.zeros(4, *size)}, {}
    if config.input_size is not None:
        raise ValueError(f"input_size={config.input_size} goes without data; the images of {data.name} have a size")
    data = normalised(data, data_config, parent)
    check_calibration("calibration_batches", config.calibration_batches, len(data.train))
    batches = calibration_batches(
        data, augmentation_of(data_config), (config.seed, "calibration"), config.calibration_batches
    )
    return {"calibration": batches}, facts_of_data(data)


def _write_report(output: Path, report: dict[str, object]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "morph_report.json").write_text(json.dumps(report, indent=1) + "\n")
