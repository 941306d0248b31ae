"""Networks that commands take and write: loaded with their data, and saved with their lineage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphnet.cli.compose import to_yaml
from morphnet.config import CollapseConfig, DataConfig, EvalConfig, MorphCommandConfig

if TYPE_CHECKING:
    from torch import nn

    from morphnet.data import ImageData
    from morphnet.train import Engine


@dataclass(frozen=True)
class Loaded:
    """The network of ``parent`` on its device, with normalised images; ``data`` is None where none are needed."""

    network: nn.Module
    engine: Engine
    data: ImageData | None
    data_config: DataConfig | None


def load(
    config: MorphCommandConfig | EvalConfig | CollapseConfig,
    data: ImageData | None,
    data_config: DataConfig | None,
    *,
    precision: str = "float32",
    convert: bool = True,
    in_float32: bool = False,
) -> Loaded:
    """Loads the network of ``config.parent`` and places it, and the images, on ``config.device``.

    Args:
        convert: see :func:`~morphnet.cli.inputs.load_parent`.
        in_float32: cast the weights, whatever their dtype.
    """
    from morphnet.cli.inputs import load_parent, normalised
    from morphnet.train import choose_engine

    network = load_parent(config.parent, config.network, data, config.weights, convert=convert)
    engine = choose_engine(config.device, precision)
    if data is not None and data_config is not None:
        data = normalised(data, data_config, network).to(engine.device)
    network = network.float() if in_float32 else network
    return Loaded(network, engine.place(network), data, data_config)


def load_to_evaluate(config: EvalConfig | CollapseConfig, precision: str = "float32") -> tuple[Loaded, ImageData]:
    """The network of ``config.parent`` in float32, and the images to count its errors on."""
    from morphnet.cli.inputs import data_of_source, load_data

    data_config = data_of_source(config.parent, config.data)
    data = load_data(data_config, evaluation_only=True)
    loaded = load(config, data, data_config, precision=precision, in_float32=True)
    assert loaded.data is not None
    return loaded, loaded.data


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Writes ``report`` as JSON."""
    from morphnet.store import write_whole

    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())


def write(
    output: Path,
    network: nn.Module,
    loaded: Loaded,
    change: dict[str, Any],
    config: CollapseConfig | MorphCommandConfig,
) -> None:
    """Writes ``network`` and its configuration to the folder ``output``.

    Args:
        change: what made ``network`` from the loaded one, for its lineage.
    """
    from morphnet.store import save_network, trace_back, write_whole

    trace_back(network, loaded.network, change)
    write_whole(output / "config.yaml", to_yaml(asdict(replace(config, data=loaded.data_config))).encode())
    print(f"written to  {save_network(network, output / 'network.safetensors')}")
