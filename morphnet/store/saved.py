"""A network as a file: what it is as JSON, weights as safetensors. Nothing in it is executed."""

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

    One of our ResNets, and a torchvision network of ``morphnet.nn.zoo.NAMES``, are whole in their file. Of any other
    class the file holds the weights and what was morphed; to be loaded it needs the network it was made from.

    The file appears under its name only when it is whole; a file of that name is replaced.

    Raises:
        TypeError: ``network`` is no ``nn.Module``.
        ValueError: it is one of our ResNets and no longer what its architecture and morphs say (a layer was
            exchanged), so the file could not hold it.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"save_network: an nn.Module is needed; got {type(network).__name__}")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"save_network: {path} is a folder; give a file, such as {path / 'network.safetensors'}")
    kind = describe_network(network)
    if isinstance(network, ResNet):
        _check_plain(network, kind)
    description = {
        "format": FORMAT,
        **kind,
        "metadata": _metadata(network),
        "hash": _digest(network, kind),
    }
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, {KEY: json.dumps(description)}))
    return path


def load_network(path: str | os.PathLike[str], base: nn.Module | None = None) -> Any:
    """The network in a file written by :func:`save_network`, on the CPU and in evaluation mode.

    Args:
        base: for networks of other classes, the network as it was before any morph; its weights are of no meaning,
            and it is not changed. Channels of its layers follow the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no network that morphnet saved, or ``base`` is missing or another one.
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
        if base is not None:
            raise ValueError(
                f"{path} is damaged, or base is not the network it was made from: they do not have the hash that was "
                "written with the weights"
            )
        raise ValueError(f"{path} is damaged: its weights do not have the hash that was written with them")
    return network.eval()


def describe_network(network: nn.Module) -> dict[str, Any]:
    """What ``network`` is, weights aside, as JSON values: what it is built on, and what was morphed.

    ``architecture`` of one of our ResNets, ``torchvision`` (name and classes) of one of theirs, else ``class``, a name
    to compare with. ``structure`` is there if layers were morphed.
    """
    if isinstance(network, ResNet):
        found: dict[str, Any] = {"architecture": network.architecture.to_dict()}
        structure = describe_morphs(network)
    elif (known := zoo.recognise(network)) is not None:
        found = {"torchvision": {"name": known[0], "classes": known[1]}}
        structure = known[2]
    else:
        found = {"class": f"{type(network).__module__}.{type(network).__qualname__}"}
        structure = describe_structure(network)
        found["outline"] = outline(network)
    return {**found, "structure": structure} if structure["modules"] or structure["layers"] else found


def outline(network: nn.Module) -> dict[str, str]:
    """The class of every module outside of grown convolutions, by name; of those and what stands there, nothing."""
    grown = [name for name, module in network.named_modules() if isinstance(module, GraphConv2d)]
    inside = tuple(f"{name}." for name in grown)
    return {
        name: type(module).__name__
        for name, module in network.named_modules()
        if name and name not in grown and not name.startswith(inside)
    }


def _check_base(path: Path, description: dict[str, Any], base: nn.Module) -> None:
    """Refuses a base that is built of other parts than the saved network was."""
    ours, theirs = description.get("outline", {}), outline(base)
    if not isinstance(ours, dict):
        raise ValueError(f"{path} is damaged: its outline is none")
    for name, kind in ours.items():
        if theirs.get(name) != kind:
            found = f"{theirs[name]}" if name in theirs else "missing"
            raise ValueError(
                f"{path} does not fit base, a {type(base).__name__}: {name} is a {kind} in the saved network; there it "
                f"is {found}; give the network as it was before any morph"
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
    """What a network carries beside its weights; only JSON values are kept of a foreign network's."""
    found = getattr(network, "metadata", None)
    if not isinstance(found, dict):
        return {}
    if not isinstance(network, ResNet):
        try:
            json.dumps(found)
        except (TypeError, ValueError):
            return {}
    return found


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
    if description is None:
        return None
    whole = (
        isinstance(description, dict)
        and isinstance(description.get("metadata"), dict)
        and isinstance(description.get("structure", {}), dict)
        and (
            isinstance(description.get("architecture"), dict)
            or isinstance(description.get("torchvision"), dict)
            or isinstance(description.get("class"), str)
        )
    )
    if not whole:
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
