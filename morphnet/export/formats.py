"""Writes a network in one of several formats and checks the file against the network."""

from __future__ import annotations

import copy
import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from morphnet import __version__
from morphnet.export.standalone import write_source
from morphnet.nn.metadata import metadata_of

#: Largest allowed difference of logits over the largest logit: sums are taken in another order.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportReport:
    """The written files, and the difference of their logits from the network's, over the largest logit."""

    files: tuple[Path, ...]
    difference: float
    checked_with: str


def export_network(
    network: nn.Module, output: str | os.PathLike[str], format: str, input_size: tuple[int, ...]
) -> ExportReport:
    """Writes ``network``, in evaluation mode and float32 on the CPU, into the folder ``output``.

    Args:
        format: one of ``FORMATS``: ``onnx``, ``program`` (``torch.export``), ``source`` (``model.py`` and
            ``weights.pt``, which need no morphnet).
        input_size: ``(C, H, W)`` of its images, or ``(N, C, H, W)``; the number of images in a batch stays free.

    Raises:
        ValueError: the format is unknown, a package is missing, or the network cannot be written in this format.
        RuntimeError: the files compute something else; they are deleted.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}; expected one of {', '.join(FORMATS)}")
    network = copy.deepcopy(network).cpu().float().eval()
    output = Path(output)
    images = torch.randn(4, *input_size[-3:], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
    before = set(output.iterdir()) if output.is_dir() else None
    output.mkdir(parents=True, exist_ok=True)
    try:
        files, run, checked_with = FORMATS[format](network, output, images)
        logits = run(images[:3])  # another number of images than in the trace
        difference = float((logits - expected[:3]).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not difference <= TOLERANCE:
            raise RuntimeError(f"the logits of the files differ by {difference:.1e} of the largest; they were deleted")
    except BaseException:
        for file in set(output.iterdir()) - (before or set()):
            file.unlink()
        if before is None:
            output.rmdir()
        raise
    return ExportReport(tuple(files), difference, checked_with)


Written = tuple[list[Path], Callable[[Tensor], Tensor], str]


def _program(network: nn.Module, output: Path, images: Tensor) -> Written:
    path = output / "network.pt2"
    torch.export.save(_traced(network, images), path)
    module = torch.export.load(path).module()
    return [path], _without_gradients(module), f"torch {torch.__version__}"


def _without_gradients(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(x)

    return run


def _traced(network: nn.Module, images: Tensor) -> Any:
    try:
        return torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # of the code of the network
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"torch.export cannot follow this {type(network).__name__}: {first[:300]}") from error


def _onnx(network: nn.Module, output: Path, images: Tensor) -> Written:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ValueError(f"format=onnx needs {', '.join(missing)}: pip install {' '.join(missing)}")
    import onnxruntime

    path = output / "network.onnx"
    program = torch.onnx.export(
        _traced(network, images), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
    )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    return sorted(output.glob("network.onnx*")), run, f"onnxruntime {onnxruntime.__version__}"


def _source(network: nn.Module, output: Path, images: Tensor) -> Written:
    known = metadata_of(network)
    normalisation = ""
    if "mean" in known and "std" in known:
        mean, std = ([float(value) for value in known[key]] for key in ("mean", "std"))
        normalisation = f"Images are scaled to [0, 1], then normalised by mean {mean}, deviation {std}."
    source = write_source(
        network,
        version=__version__,
        weights="weights.pt",
        size=f"(N, {', '.join(map(str, images.shape[1:]))})",
        normalisation=normalisation,
        data=str(known["data"]) if "data" in known else None,
    )
    path, weights = output / "model.py", output / "weights.pt"
    path.write_text(source, encoding="utf-8")
    again = runpy.run_path(str(path))["Network"]()
    state = network.state_dict()
    torch.save({name: state[name] for name in again.state_dict()}, weights)  # without unused tensors
    again.load_state_dict(torch.load(weights, weights_only=True))
    return [path, weights], _without_gradients(again.eval()), f"torch {torch.__version__}"


#: The writer of every format.
FORMATS: dict[str, Callable[[nn.Module, Path, Tensor], Written]] = {
    "onnx": _onnx,
    "program": _program,
    "source": _source,
}
