"""``morphnet report verify=true``: whether saved networks make the errors in their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from morphnet.cli.output import short

if TYPE_CHECKING:
    from morphnet.data import ImageData
    from morphnet.report.record import Record


def verify(records: Sequence[Record], device: str, say: Callable[[str], None]) -> None:
    """Evaluates the network beside each of ``records`` on the data of its run.

    Raises:
        ValueError: a network is missing, is another one, or makes other errors; all of these are named.
    """
    loaded: dict[str, ImageData] = {}
    wrong = []
    for record in records:
        folder = short(record.file.parent)
        try:
            say(f"{folder}: {_verify(record, device, loaded)}")
        except (OSError, ValueError, FloatingPointError) as error:
            wrong.append(f"{folder}: {error}")
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(records)} records could not be verified:\n  " + "\n  ".join(wrong))


def _verify(record: Record, device: str, loaded: dict[str, ImageData]) -> str:
    from morphnet.cli.inputs import data_of_source, load_data
    from morphnet.data import evaluation_batches, with_normalisation
    from morphnet.store import load_network, network_hash
    from morphnet.train import choose_engine, evaluate

    network = load_network(record.file.with_name("network.safetensors"))
    if network_hash(network) != record.lineage.network:
        raise ValueError("network.safetensors is not the network that record.json describes")
    config = data_of_source(str(record.file.parent), None)
    key = repr(config)
    if key not in loaded:
        loaded[key] = load_data(config, evaluation_only=True)
    engine = choose_engine(device, record.evaluation_precision)
    data = with_normalisation(loaded[key], [record.data.mean, record.data.std]).to(engine.device)
    engine = engine.place(network)
    final = evaluate(network, evaluation_batches(data), engine)
    counts = f"{final.errors:,} errors of {final.images:,}"
    recorded = f"{record.errors:,} of {record.data.images:,}"
    if (final.errors, final.images) != (record.errors, record.data.images):
        raise ValueError(f"{counts}; recorded are {recorded}")
    if record.views is not None:
        views = evaluate(network, evaluation_batches(data, views=record.views.count), engine)
        if views.errors != record.views.errors:
            over = f"over {record.views.count} views"
            raise ValueError(f"{views.errors:,} errors {over}; recorded are {record.views.errors:,}")
        counts += f", {views.errors:,} over {record.views.count} views"
    return f"{counts}, as recorded"
