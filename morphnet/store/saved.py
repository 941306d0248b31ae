"""A network as a file: its description as JSON, weights as safetensors. Nothing in it is executed."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from morphnet.nn import zoo
from morphnet.nn.graph_conv import GraphConv2d
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture, ResNet, bare, describe_morphs
from morphnet.nn.structure import describe_structure, restore_structure
from morphnet.store.files import write_whole

#: The key of the file's metadata that holds everything but the weights, as JSON.
KEY = "morphnet"
FORMAT = 1


def save_network(network: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Writes a network, with its ``metadata``, to one safetensors file that :func:`load_network` reads.

    The file of one of our ResNets, or of a torchvision network in ``morphnet.nn.zoo.NAMES``, is complete. For any other
    class it holds the weights and the morphs; loading it needs the unmorphed network. An existing file is replaced.

    Raises:
        TypeError: ``network`` is not an ``nn.Module``.
        ValueError: it is one of our ResNets, changed in a way that the file cannot hold (a layer was exchanged).
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"save_network: an nn.Module is needed; got {type(network).__name__}")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"save_network: {path} is a folder; give a file, such as {path / 'network.safetensors'}")
    kind = describe_network(network)
    if isinstance(network, ResNet):
        _check_plain(network, kind)
    description = {"format": FORMAT, **kind, "metadata": _metadata(network), "hash": _digest(network, kind)}
    state = {name: value for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, {KEY: json.dumps(description)}))
    return path


def load_network(path: str | os.PathLike[str], base: nn.Module | None = None) -> Any:
    """The network in a file written by :func:`save_network`, on the CPU and in evaluation mode.

    Args:
        base: for networks of other classes, the unmorphed network, with any weights; it is not changed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or was not saved by morphnet, or ``base`` is missing or another network.
    """
    path = Path(path)
    description = read_description(path)
    if description is None:
        raise ValueError(
            f"{path} is not a network saved by morphnet; a state dict trained elsewhere needs its architecture named: "
            "network=cifar_resnet20, for example"
        )
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has format {description.get('format')!r}; this morphnet reads format {FORMAT}")
    network = _build(path, description, base)
    try:
        tensors = load_file(path)
        # Copied, not put in place: parameters that are tied in the code stay tied. First to the file's dtypes.
        for name, own in network.state_dict(keep_vars=True).items():
            if name in tensors and own.dtype != tensors[name].dtype:
                own.data = own.data.to(tensors[name].dtype)
        network.load_state_dict(tensors)
    except (RuntimeError, ValueError, SafetensorError) as error:
        what = f"{path} does not fit base" if base is not None else f"{path} is damaged"
        raise ValueError(f"{what}: {error}") from error
    metadata_of(network).update(description["metadata"])
    if description.get("hash") != network_hash(network):
        base_words = "" if base is None else ", or base is not the network it was made from"
        raise ValueError(f"{path} is damaged{base_words}: its weights do not have the hash that was written with them")
    return network.eval()


def describe_network(network: nn.Module) -> dict[str, Any]:
    """The architecture and morphs of ``network``, without its weights, as JSON values.

    The keys: ``architecture`` for our ResNets, ``torchvision`` (name and classes) for torchvision's networks, else
    ``class`` and ``outline``; ``structure`` if layers were morphed.
    """
    if isinstance(network, ResNet):
        kind: dict[str, Any] = {"architecture": network.architecture.to_dict()}
        structure = describe_morphs(network)
    elif (known := zoo.recognise(network)) is not None:
        kind = {"torchvision": {"name": known[0], "classes": known[1]}}
        structure = known[2]
    else:
        name = f"{type(network).__module__}.{type(network).__qualname__}"
        kind = {"class": name, "outline": outline(network)}
        structure = describe_structure(network)
    return {**kind, "structure": structure} if structure["modules"] or structure["layers"] else kind


def outline(network: nn.Module) -> dict[str, str]:
    """The class of every module by name, without grown convolutions and their parts."""
    modules = dict(network.named_modules())
    grown = tuple(f"{name}." for name, module in modules.items() if isinstance(module, GraphConv2d))
    return {k: type(module).__name__ for k, module in modules.items() if k and not f"{k}.".startswith(grown)}


def _check_base(path: Path, description: dict[str, Any], base: nn.Module) -> None:
    """Refuses a base that has other modules than the saved network had."""
    ours, theirs = description.get("outline", {}), outline(base)
    if not isinstance(ours, dict):
        raise ValueError(f"{path} is damaged: its outline is none")
    for name, kind in ours.items():
        if theirs.get(name) != kind:
            raise ValueError(
                f"{path} does not fit base, a {type(base).__name__}: {name} is a {kind} in the saved network; there it "
                f"is {theirs.get(name, 'missing')}; give the network as it was before any morph"
            )


def _build(path: Path, description: dict[str, Any], base: nn.Module | None) -> nn.Module:
    """A network of the right layers, its weights of no meaning."""
    try:
        if "architecture" in description:
            network: nn.Module = ResNet(Architecture.from_dict(description["architecture"]))
        elif "torchvision" in description:
            network = zoo.build(str(description["torchvision"]["name"]), int(description["torchvision"]["classes"]))
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if "class" not in description:
        if base is not None:
            raise ValueError(f"{path} holds a whole network, so it takes no base")
    elif base is None:
        raise ValueError(
            f"{path} holds the morphs and weights of a {description['class']}, whose code is yours: give "
            "load_network(path, base=...) such a network, as it was before any morph"
        )
    else:
        _check_base(path, description, base)
        network = copy.deepcopy(base)
    try:
        restore_structure(network, description.get("structure", {}))
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        what = f"{path} does not fit base" if base is not None else f"{path} is damaged"
        raise ValueError(f"{what}: {error}") from error
    return network


def _metadata(network: nn.Module) -> dict[str, Any]:
    """The metadata of a network; nothing if a foreign network's is not JSON."""
    metadata = metadata_of(network)
    if not isinstance(network, ResNet):
        try:
            json.dumps(metadata)
        except (TypeError, ValueError):
            return {}
    return metadata


def _check_plain(network: ResNet, kind: dict[str, Any]) -> None:
    plain = bare(network.architecture)
    restore_structure(plain, kind.get("structure", {}))
    if repr(plain) != repr(network):
        ours, theirs = repr(plain).splitlines(), repr(network).splitlines()
        changed = next((line.strip() for line, was in zip(theirs, ours, strict=False) if line != was), "its layers")
        raise ValueError(f"save_network: the network was changed after it was built ({changed}), so it cannot be saved")
    dtypes = {value.dtype for value in network.state_dict().values() if value.is_floating_point()}
    if len(dtypes) != 1:
        raise ValueError(f"save_network: weights of one dtype are needed; got {', '.join(sorted(map(str, dtypes)))}")


def read_description(path: Path) -> dict[str, Any] | None:
    """The description of a saved network; None if ``path`` is a safetensors file of another kind.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder; give a file" if path.is_dir() else f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        description = json.loads(metadata[KEY]) if KEY in metadata else None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if description is None:
        return None
    types = {"metadata": dict, "structure": dict, "architecture": dict, "torchvision": dict, "class": str}
    if (
        not isinstance(description, dict)
        or not all(isinstance(description[key], kind) for key, kind in types.items() if key in description)
        or "metadata" not in description
        or not {"architecture", "torchvision", "class"} & description.keys()
    ):
        raise ValueError(f"{path} is damaged: its description is not that of a network")
    return description


def network_hash(network: nn.Module) -> str:
    """sha256 over what a network is and every weight: equal networks, and only they, have equal hashes."""
    return _digest(network, describe_network(network))


def trace_back(network: nn.Module, parent: nn.Module, change: dict[str, Any]) -> None:
    """Sets the lineage of ``network``: that of ``parent``, then ``change`` with the hash of ``parent``."""
    lineage = metadata_of(parent).get("lineage", [])
    metadata_of(network)["lineage"] = [*lineage, {"network": network_hash(parent), **change}]


def _digest(network: nn.Module, kind: dict[str, Any]) -> str:
    if "architecture" in kind and "structure" not in kind:
        kind = kind["architecture"]
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
