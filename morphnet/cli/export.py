"""``morphnet export``: writes a network for use elsewhere and checks it against the network itself."""

from __future__ import annotations

from omegaconf import DictConfig

from morphnet.cli.compose import run_job, to_dataclass
from morphnet.cli.output import new_folder
from morphnet.config import ExportConfig


def main() -> None:
    """Writes the network of ``parent`` into ``output``."""
    run_job("export", export_source)


def export_source(composed: DictConfig) -> None:
    config = to_dataclass(composed, ExportConfig)
    with new_folder(config.output) as output:
        from morphnet.cli.inputs import load_data, load_parent, takes_and_gives
        from morphnet.export import export_network
        from morphnet.nn.metadata import metadata_of

        data = None if config.data is None else load_data(config.data)
        network = load_parent(config.parent, config.network, data, config.weights)
        size = config.input_size or metadata_of(network).get("input_size")
        if size is None and data is not None:
            size = list(data.input_size)
        if size is None or len(size) != 3 or min(size) < 1:
            raise ValueError(f"input_size={config.input_size}: [C,H,W] of an image is needed, such as [3,224,224]")
        channels = takes_and_gives(network)[1]
        if channels is not None and channels != size[0]:
            raise ValueError(
                f"input_size={list(size)}: {config.parent} takes images of {channels} channels, [{channels},H,W]"
            )
        report = export_network(network, output, config.format, tuple(size))
        for file in report.files:
            print(f"written to  {file}  ({file.stat().st_size:,} bytes)")
        print(f"checked     logits differ by at most {report.difference:.1e} of the largest, by {report.checked_with}")
