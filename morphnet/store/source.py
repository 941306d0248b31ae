"""SOURCE of the command line: a run directory, a saved network, a state dict, or ``torchvision:NAME``."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from morphnet.nn import zoo
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture
from morphnet.nn.torchvision import convert_torchvision
from morphnet.store.saved import load_network, read_description
from morphnet.store.state_dict import State, load_state_dict_file, load_weights
from morphnet.suggest import suggest

#: Endings of files of weights.
WEIGHTS = (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")


def load_source(
    source: str,
    architecture: Architecture | None = None,
    weights: str = "none",
    *,
    classes: int | None = None,
    convert: bool = True,
) -> nn.Module:
    """The network that ``source`` names, on the CPU and in evaluation mode.

    Args:
        source: a run directory (the network of its last phase), a file of ``save_network``, a state dict
            trained elsewhere, or ``torchvision:NAME``.
        architecture: of a state dict.
        weights: of ``torchvision:NAME``: ``none`` (random), ``default`` (torchvision's download), or a file.
        classes: of ``torchvision:NAME`` without weights; None for ImageNet's 1000.
        convert: convert torchvision's ResNet-18, -34, -50, -101 and -152 to ours, whose shortcuts can be morphed.

    Raises:
        FileNotFoundError, ValueError: the source is missing, is not a network, or does not fit.
    """
    if source.startswith("torchvision:"):
        return _from_torchvision(source.removeprefix("torchvision:"), weights, classes, convert)
    if not source:
        raise ValueError("parent is empty: give a run directory, a saved network, a state dict, or torchvision:NAME")
    path = Path(source)
    if path.is_dir():
        return load_network(network_of_run(path))
    if not path.exists():
        raise FileNotFoundError(
            f"parent={source}: there is no such file or folder; give a run directory, a saved network, a state dict, "
            f"or torchvision:NAME ({', '.join(zoo.NAMES[:3])}, ...)"
        )
    if path.suffix == ".safetensors" and read_description(path) is not None:
        return load_network(path)
    if architecture is None:
        raise ValueError(f"parent={source} holds weights alone: name its architecture, such as network=cifar_resnet20")
    return load_state_dict_file(path, architecture)


def network_of_run(run: Path) -> Path:
    """The network of the last finished phase, except controls, of a run directory, or of a folder with one network."""
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
    inside = sorted(run.glob("*/config.yaml")) or sorted(run.glob("*/*/config.yaml"))
    hint = f"; there are runs in it, such as parent={inside[0].parent}" if inside else ""
    raise FileNotFoundError(f"parent={run}: no finished phase with a network.safetensors in this folder{hint}")


def trained_on(source: str) -> str | None:
    """The name of the training data in the file of ``source``; None if the file does not have it.

    Raises:
        ValueError, FileNotFoundError: ``source`` is not a network.
    """
    if source.startswith("torchvision:"):
        _check_name(source.removeprefix("torchvision:"))
        return None
    path = Path(source)
    if path.is_dir():
        path = network_of_run(path)
    if path.suffix not in WEIGHTS:
        raise ValueError(f"parent={source} is no network: a run, or a file of {', '.join(WEIGHTS)} is needed")
    description = (read_description(path) or {}) if path.suffix == ".safetensors" else {}
    name = (description.get("metadata") or {}).get("data")
    return name if isinstance(name, str) else None


def _check_name(name: str) -> None:
    if name not in zoo.NAMES:
        known = f"expected one of {', '.join(zoo.NAMES)}{suggest(name, zoo.NAMES)}"
        raise ValueError(f"parent=torchvision:{name}: {known}")


def _from_torchvision(name: str, weights: str, classes: int | None, convert: bool) -> nn.Module:
    _check_name(name)
    try:
        count = 1000 if classes is None or weights != "none" else classes
        network = zoo.build(name, count, weights="DEFAULT" if weights == "default" else None)
    except OSError as error:
        raise ValueError(f"weights=default could not be downloaded ({error}); give weights=PATH") from error
    if weights not in ("none", "default"):
        path = Path(weights)
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "there is no such file"
            raise FileNotFoundError(f"weights={weights}: {problem}; give none, default or a file")
        if path.suffix == ".safetensors" and read_description(path) is not None:
            raise ValueError(f"weights={weights} is a network that morphnet saved: give parent={weights} instead")
        load_weights(network, path, f"torchvision's {name}", lambda own, given: _other_classes(name, path, own, given))
    network = network.eval()
    converted = convert_torchvision(network) if convert else None
    network = network if converted is None else converted
    metadata_of(network).update(
        input_size=list(zoo.INPUT_SIZE),
        mean=list(zoo.MEAN),
        std=list(zoo.STD),
        lineage=[{"source": f"torchvision:{name}", "weights": Path(weights).name}],
    )
    return network


def _other_classes(name: str, path: Path, own: State, given: State) -> str:
    """Advice for weights of a ResNet if only its last layer does not fit."""
    shapes, given_shapes = ({(key, value.shape) for key, value in state.items()} for state in (own, given))
    differ = {key for key, _ in shapes ^ given_shapes}
    if differ != {"fc.weight", "fc.bias"} or name not in ("resnet18", "resnet34", "resnet50"):
        return ""
    return f"\nit has {len(given['fc.weight'])} classes: give parent={path} network=imagenet_{name} and data of as many"
