"""``morphnet eval``: the errors of a network on a data set."""

from __future__ import annotations

import json
import math
from pathlib import Path

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
    predictions = None if config.predictions is None else _file_for_predictions(config.predictions)

    from morphnet.cli.networks import load_to_evaluate
    from morphnet.flops import count_macs, count_parameters
    from morphnet.report.outcomes import over_views, write_classes
    from morphnet.store import network_hash
    from morphnet.train import evaluate_data

    loaded, data = load_to_evaluate(config, config.precision)
    network, engine = loaded.network, loaded.engine
    single = evaluate_data(network, data, engine)
    views = evaluate_data(network, data, engine, views=data.views) if data.views > 1 else None
    if not math.isfinite(single.loss):
        raise FloatingPointError(f"parent={config.parent} computes {single.loss}: check its weights and data.normalize")
    if predictions is not None:
        for path, result in ((predictions, single), (over_views(predictions, data.views), views)):
            if result is not None and result.predictions is not None:
                write_classes(path, result.predictions, data.classes)
    precision = str(engine.precision).removeprefix("torch.")
    if config.format == "json":
        figures = {
            "errors": single.errors,
            "images": single.images,
            "error": single.error,
            "loss": single.loss,
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
    for result, how in ((single, ""), (views, f", {data.views} views of each")):
        if result is not None:
            print(
                f"{result.errors:,} errors of {result.images:,} ({100 * result.error:.2f} %), "
                f"loss {result.loss:.4f}: {where}{how}"
            )
    if data.unreadable is not None and data.unreadable.count():
        print(f"{data.unreadable.count()} images could not be read and are left out")


def _file_for_predictions(given: str) -> Path:
    """``given`` as the path of a new file; refuses one that cannot be written."""
    path = Path(given)
    if path.suffix != ".npy":
        raise ValueError(f"predictions={given}: a file that ends in .npy is needed, such as predictions=grown.npy")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"predictions={given}: there is no folder {path.parent}; make it, or give another file")
    if path.is_dir():
        raise FileExistsError(f"predictions={given} is a folder; give a file in it, such as {path / 'grown.npy'}")
    return path
