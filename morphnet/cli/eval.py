"""``morphnet eval``: the errors of a network on a data set."""

from __future__ import annotations

import json
import math

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.config import EvalConfig


def main() -> None:
    """Counts the errors of the network of ``parent``."""
    run_job("eval", evaluate_source)


def evaluate_source(composed: DictConfig) -> None:
    config = to_dataclass(composed, EvalConfig)
    if config.format not in ("text", "json"):
        raise ValueError(f"format={config.format!r}; expected text or json")

    from morphnet.cli.inputs import data_of_source, load_data, load_parent, normalised
    from morphnet.data import evaluation_batches
    from morphnet.flops import count_macs, count_parameters
    from morphnet.store import network_hash
    from morphnet.train import choose_engine, evaluate

    data_config = data_of_source(config.parent, config.data)
    data = load_data(data_config, evaluation_only=True)
    network = load_parent(config.parent, config.network, data, config.weights)
    engine = choose_engine(config.device, config.precision)
    data = normalised(data, data_config, network).to(engine.device)
    engine = engine.place(network.float())
    found = evaluate(network, evaluation_batches(data), engine)
    views = evaluate(network, evaluation_batches(data, views=data.views), engine) if data.views > 1 else None
    if not math.isfinite(found.loss):
        raise FloatingPointError(f"parent={config.parent} computes {found.loss}: check its weights and data.normalize")
    precision = str(engine.precision).removeprefix("torch.")
    if config.format == "json":
        figures = {
            "errors": found.errors,
            "images": found.images,
            "error": found.error,
            "loss": found.loss,
            "views": views and {"count": data.views, "error": views.error, "errors": views.errors, "loss": views.loss},
            "unreadable": data.unreadable.count() if data.unreadable else 0,
            "data": data.name,
            "evaluated_on": data.evaluated_on,
            "precision": precision,
            "device": engine.device.type,
            "macs": count_macs(network, (1, *data.input_size)),
            "parameters": count_parameters(network),
            "network": network_hash(network),
        }
        print(json.dumps(figures, indent=1))
        return
    where = f"{data.name}, {data.evaluated_on} images, {precision} on {engine.device.type}"
    for result, how in ((found, ""), (views, f", {data.views} views of each")):
        if result is not None:
            print(
                f"{result.errors:,} errors of {result.images:,} ({100 * result.error:.2f} %), "
                f"loss {result.loss:.4f}: {where}{how}"
            )
    if data.unreadable is not None and data.unreadable.count():
        print(f"{data.unreadable.count()} images could not be read and are left out")
