"""SOURCE of the command line: a run directory, a saved network, a state dict, or ``torchvision:NAME``."""

from __future__ import annotations

import json
from pathlib import Path

from morphnet.nn.resnet import Architecture, ResNet
from morphnet.nn.torchvision import convert_torchvision
from morphnet.store.saved import load_network, read_description
from morphnet.store.state_dict import load_state_dict_file

TORCHVISION = ("resnet18", "resnet34")


def load_source(source: str, architecture: Architecture | None = None, weights: str = "none") -> ResNet:
    """The network that ``source`` names, on the CPU and in evaluation mode.

    Args:
        source: a run directory (the network of its last phase), a file of ``save_network``, a state dict
            trained elsewhere, or ``torchvision:NAME``.
        architecture: of a state dict; ignored where the source carries its own.
        weights: of ``torchvision:NAME``: ``none`` (random), ``default`` (torchvision's download), or a file.

    Raises:
        FileNotFoundError, ValueError: in words that name what was given and what to try.
    """
    if source.startswith("torchvision:"):
        return _from_torchvision(source.removeprefix("torchvision:"), weights)
    if not source:
        raise ValueError("parent is empty: give a run directory, a saved network, a state dict, or torchvision:NAME")
    path = Path(source)
    if path.is_dir():
        return load_network(network_of_run(path))
    if not path.exists():
        raise FileNotFoundError(
            f"parent={source}: there is no such file or folder; give a run directory, a saved network, a state dict, "
            f"or torchvision:NAME ({', '.join(TORCHVISION)})"
        )
    if path.suffix == ".safetensors" and read_description(path) is not None:
        return load_network(path)
    if architecture is None:
        raise ValueError(f"parent={source} holds weights alone: name its architecture, such as network=cifar_resnet20")
    return load_state_dict_file(path, architecture)


def network_of_run(run: Path) -> Path:
    """The network of the last finished phase of a run directory (or of one phase, or of ``morphnet morph``).

    Controls are phases that grew nothing, so they are not what a run is for and are passed over.
    """
    direct = run / "network.safetensors"
    if direct.is_file():
        return direct
    finished: dict[int, Path] = {}
    for path in (run / "phases").glob("*/record.json"):
        try:
            record = json.loads(path.read_text())
            if record["role"] != "control":
                finished[int(record["index"])] = path.with_name("network.safetensors")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if finished:
        return finished[max(finished)]
    raise FileNotFoundError(f"parent={run}: no finished phase with a network.safetensors in this folder")


def _from_torchvision(name: str, weights: str) -> ResNet:
    import torch
    import torchvision

    if name not in TORCHVISION:
        raise ValueError(f"parent=torchvision:{name}: expected one of {', '.join(TORCHVISION)}")
    build = getattr(torchvision.models, name)
    try:
        network = build(weights="DEFAULT" if weights == "default" else None)
    except OSError as error:
        raise ValueError(f"weights=default could not be downloaded ({error}); give weights=PATH") from error
    if weights not in ("none", "default"):
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"weights={weights}: there is no such file; give none, default or a path")
        try:
            network.load_state_dict(torch.load(path, "cpu", weights_only=True))
        except Exception as error:
            raise ValueError(f"weights={weights} does not fit torchvision's {name}: {str(error)[:500]}") from error
    converted = convert_torchvision(network.eval())
    assert converted is not None
    converted.metadata = {
        "input_size": [3, 224, 224],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "lineage": [{"source": f"torchvision:{name}", "weights": Path(weights).name}],
    }
    return converted
