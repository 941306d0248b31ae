"""``morphnet morph``: one morph of a trained network, with its proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.cli.output import new_folder, note
from morphnet.config import DataConfig, MorphCommandConfig

if TYPE_CHECKING:
    from morphnet.cli.networks import Loaded
    from morphnet.data import ImageData


def main() -> None:
    """Morphs the network of ``parent`` and writes child and report to ``output``."""
    run_job("morph", morph)


def morph(composed: DictConfig) -> None:
    config = to_dataclass(composed, MorphCommandConfig)
    with new_folder(config.output) as output:
        _morph_into(output, config)


def _morph_into(output: Path, config: MorphCommandConfig) -> None:
    from morphnet.cli.networks import load, write, write_report
    from morphnet.cli.operations import layer_morphs
    from morphnet.data import generator_for
    from morphnet.morph import InexactError, MorphError, morph_network
    from morphnet.nn.metadata import metadata_of
    from morphnet.spec import parse_spec
    from morphnet.store import network_hash

    layers = layer_morphs(config)
    if layers is None and config.morph is None:
        raise ValueError(
            "give morph=SPEC (such as 1c1_half) for the shortcuts of a ResNet, or target='layer3.*.conv2' with "
            "module=NAME, deepen=, widen= or enlarge= for named layers; got neither"
        )
    spec = layers if layers is not None else str(parse_spec(str(config.morph)))
    config.check_fits({layers is not None})
    settings = config.settings_of(layers is not None)
    loaded = load(config, *_data(config, needed=settings["bn"] != "none"), convert=layers is None)
    images, facts = _images(config, loaded)
    report_file = output / "morph_report.json"
    try:
        child, report = morph_network(
            loaded.network, spec, generator=generator_for(config.seed, "filters"), **images, **settings
        )
    except MorphError as error:
        write_report(report_file, error.report.to_dict())
        raise
    except InexactError as error:
        write_report(report_file, {"passed": False, "failures": [str(error)]})
        raise
    metadata_of(child).update(facts)
    hashes = {"parent_hash": network_hash(loaded.network), "child_hash": network_hash(child)}
    write_report(report_file, {**report.to_dict(), **hashes})
    print(report)
    write(output, child, loaded, {"morph": report.spec}, config)


def _data(config: MorphCommandConfig, *, needed: bool) -> tuple[ImageData | None, DataConfig | None]:
    """The images asked for, or those of the parent's run; None where none are needed and none are found."""
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


def _images(config: MorphCommandConfig, loaded: Loaded) -> tuple[dict[str, Any], dict[str, Any]]:
    """Images to measure and prove the morph on, and what the child's file says of its data."""
    import torch

    from morphnet.cli.inputs import augmentation_of
    from morphnet.data import calibration_batches
    from morphnet.data.batches import check_calibration
    from morphnet.train.description import facts_of_data

    data, size = loaded.data, config.input_size
    if data is None or loaded.data_config is None:
        if size is None:
            return {}, {}
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"input_size={size}: [C,H,W] of an image is needed, such as [3,224,224]")
        return {"example_input": torch.zeros(4, *size)}, {}
    if size is not None:
        raise ValueError(f"input_size={size} goes without data; the images of {data.name} have a size")
    count = config.calibration_batches
    check_calibration("calibration_batches", count, len(data.train))
    batches = calibration_batches(data, augmentation_of(loaded.data_config), (config.seed, "calibration"), count)
    return {"calibration": batches}, facts_of_data(data)
