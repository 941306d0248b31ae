"""``morphnet report verify=true``: whether saved networks make the errors that their records say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphnet.cli.output import short

if TYPE_CHECKING:
    from morphnet.data import ImageData


def verify(paths: Sequence[Path], device: str, say: Callable[[str], None]) -> None:
    """Evaluates the network beside each of the records in ``paths`` on the data of its run.

    Raises:
        ValueError: one of them is gone, is another one, or makes other errors; all of these are named.
    """
    loaded: dict[str, ImageData] = {}
    wrong = []
    for path in paths:
        try:
            say(f"{short(path.parent)}: {_verify(path, device, loaded)}")
        except (OSError, ValueError, FloatingPointError) as error:
            wrong.append(f"{short(path.parent)}: {error}")
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(paths)} records could not be verified:\n  " + "\n  ".join(wrong))


def _verify(path: Path, device: str, loaded: dict[str, ImageData]) -> str:
    from morphnet.cli.inputs import data_of_source, load_data
    from morphnet.data import evaluation_batches, with_normalisation
    from morphnet.report.record import read_record
    from morphnet.store import load_network, network_hash
    from morphnet.train import choose_engine, evaluate

    record = read_record(path)
    network = load_network(path.with_name("network.safetensors"))
    if network_hash(network) != record["lineage"]["network"]:
        raise ValueError("network.safetensors is not the network that record.json describes")
    config = data_of_source(str(path.parent), None)
    key = repr(config)
    if key not in loaded:
        loaded[key] = load_data(config, evaluation_only=True)
    engine = choose_engine(device, record.get("evaluation_precision", "float32"))
    data = with_normalisation(loaded[key], [record["data"]["mean"], record["data"]["std"]]).to(engine.device)
    engine = engine.place(network)
    found = evaluate(network, evaluation_batches(data), engine)
    _compare(record, found.errors, found.images, "")
    said = f"{found.errors:,} errors of {found.images:,}"
    over = record.get("views")
    if over:
        views = evaluate(network, evaluation_batches(data, views=over["count"]), engine)
        _compare(over, views.errors, None, f" over {over['count']} views")
        said += f", {views.errors:,} over {over['count']} views"
    return f"{said}, as recorded"


def _compare(record: dict[str, Any], errors: int, images: int | None, how: str) -> None:
    recorded = record["data"]["images"] if images is not None else None
    if errors != record["errors"] or images != recorded:
        raise ValueError(
            f"{errors:,} errors{'' if images is None else f' of {images:,}'}{how}; recorded are "
            f"{record['errors']:,}{'' if recorded is None else f' of {recorded:,}'}"
        )
