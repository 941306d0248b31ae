"""A network as a file: architecture as JSON, weights as safetensors. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from morphnet.nn.resnet import Architecture, ResNet
from morphnet.store.files import write_whole

#: The key of the file's metadata that holds everything but the weights, as JSON.
KEY = "morphnet"
FORMAT = 1


def save_network(network: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Writes a network, with its ``metadata``, to one safetensors file that :func:`load_network` reads.

    The file appears under its name only when it is whole; a file of that name is replaced.

    Raises:
        TypeError: ``network`` is not one of our ResNets.
        ValueError: it is no longer what its architecture says (a layer was exchanged), so the file could not
            hold it.
    """
    if not isinstance(network, ResNet):
        raise TypeError(f"save_network writes morphnet's ResNets; got {type(network).__name__}")
    path = Path(path)
    _check_plain(network)
    description = {
        "format": FORMAT,
        "architecture": network.architecture.to_dict(),
        "metadata": network.metadata,
        "hash": network_hash(network),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, {KEY: json.dumps(description)}))
    return path


def load_network(path: str | os.PathLike[str], base: nn.Module | None = None) -> ResNet:
    """The network in a file written by :func:`save_network`, on the CPU and in evaluation mode.

    Args:
        base: reserved for networks of other classes; our ResNets carry their architecture, so it must be None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is no network that morphnet saved.
    """
    path = Path(path)
    description = read_description(path)
    if description is None:
        raise ValueError(
            f"{path} is not a network saved by morphnet; a state dict trained elsewhere needs its architecture named: "
            "network=cifar_resnet20, for example"
        )
    if base is not None:
        raise ValueError(f"{path} holds a whole network, so it takes no base")
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has format {description.get('format')!r}; this morphnet reads format {FORMAT}")
    try:
        network = ResNet(Architecture.from_dict(description["architecture"]))
        tensors = load_file(path)
        network.to(next(value.dtype for value in tensors.values() if value.is_floating_point()))
        network.load_state_dict(tensors)
    except (KeyError, RuntimeError, StopIteration, ValueError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    network.metadata = description["metadata"]
    if description.get("hash") != network_hash(network):
        raise ValueError(f"{path} is damaged: its weights do not have the hash that was written with them")
    return network.eval()


def _check_plain(network: ResNet) -> None:
    plain = ResNet(network.architecture)
    if repr(plain) != repr(network):
        ours, theirs = repr(plain).splitlines(), repr(network).splitlines()
        changed = next((line.strip() for line, was in zip(theirs, ours, strict=False) if line != was), "its layers")
        raise ValueError(f"save_network: the network was changed after it was built ({changed}), so it cannot be saved")
    dtypes = {value.dtype for value in network.state_dict().values() if value.is_floating_point()}
    if len(dtypes) != 1:
        raise ValueError(f"save_network: weights of one dtype are needed; got {', '.join(sorted(map(str, dtypes)))}")


def read_description(path: Path) -> dict[str, Any] | None:
    """Everything but the weights of a saved network; None if ``path`` is a safetensors file of another kind.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder; give a file" if path.is_dir() else f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        description = json.loads(metadata[KEY]) if KEY in metadata else None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    parts = description if isinstance(description, dict) else {}
    if description is not None and not all(isinstance(parts.get(k), dict) for k in ("architecture", "metadata")):
        raise ValueError(f"{path} is damaged: its description is not that of a network")
    return description


def network_hash(network: ResNet) -> str:
    """sha256 over the architecture and every weight: equal networks, and only they, have equal hashes."""
    digest = hashlib.sha256(json.dumps(network.architecture.to_dict(), sort_keys=True).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
