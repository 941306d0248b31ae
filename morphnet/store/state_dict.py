"""Weights trained elsewhere, loaded into an architecture that the user names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from morphnet.nn.resnet import Architecture, ResNet

State = dict[str, Tensor]
#: At most so many misfits of each kind are named.
NAMED = 8
#: Prefixes of tensor names by DataParallel and torch.compile.
PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")
#: Allowed dtypes of weights.
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
#: Keys of the state dict in checkpoints of training scripts.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def load_state_dict_file(path: Path, architecture: Architecture) -> ResNet:
    """A network of ``architecture`` with the weights in ``path``, on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_weights`.
    """
    network = ResNet(architecture)
    what = (
        f"the architecture that network= names ({architecture.family}, {architecture.depth} layers, "
        f"{architecture.shortcut} shortcuts, {architecture.activation}, {architecture.classes} classes)"
    )
    load_weights(network, path, what, _hint)
    return network.eval()


def load_weights(
    network: nn.Module, path: Path, what: str, advice: Callable[[State, State], str] = lambda own, given: ""
) -> None:
    """Puts the weights in ``path`` into ``network``, which takes their dtype.

    Reads safetensors, and files of ``torch.save`` without executing their content. Handles prefixes of ``DataParallel``
    and ``torch.compile``, a dictionary around the state dict, and missing ``num_batches_tracked``.

    Args:
        what: a description of the network.
        advice: makes advice from the state dicts of the network and the file if they do not fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or does not fit; the tensors that do not fit are named.
    """
    tensors = _read(path)
    own = network.state_dict()
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.zeros_like(value))
    tensors = {k: v for k, v in tensors.items() if k in own or not k.endswith("num_batches_tracked")}
    problems = _misfits(own, tensors)
    if problems:
        named = [line for kind in problems for line in kind[:NAMED]]
        more = sum(map(len, problems)) - len(named)
        lines = "\n  ".join([*named, *([f"and {more} more"] if more else [])])
        raise ValueError(f"{path} does not fit {what}:\n  {lines}{advice(own, tensors)}")
    weights = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    dtypes = {value.dtype for value in weights.values()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        needed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"{path}: weights of one of {needed} are needed; got {', '.join(sorted(map(str, dtypes)))}")
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite; the training it is from has diverged")
        if name.endswith("running_var") and value.min() < 0:
            raise ValueError(f"{path}: {name} holds variances below zero")
    network.to(dtypes.pop())
    network.load_state_dict(tensors)


def _read(path: Path) -> State:
    if not path.is_file():
        problem = "is a folder; a file of weights is needed" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {problem}")
    try:
        # Training scripts save their arguments with the weights; a Namespace runs no code of the file.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = load_file(path) if _is_safetensors(path) else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as weights: safetensors, or a file of torch.save(model.state_dict(), ...) with "
            "nothing but tensors and plain values, is needed; a whole pickled model is not read, since it may run code"
        ) from error
    if isinstance(content, dict):
        wrapped = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        content = content if wrapped is None else wrapped
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: a dictionary of names and tensors is needed")
    if any(value.layout != torch.strided or value.is_meta for value in content.values()):
        raise ValueError(f"{path} holds sparse tensors, or such without numbers; plain ones are needed")
    tensors = {PREFIX.sub("", str(name)): value for name, value in content.items()}
    if len(tensors) < len(content):
        raise ValueError(f"{path} holds some names both with and without a prefix such as 'module.'")
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts with the length of a header and JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _misfits(own: State, given: State) -> list[list[str]]:
    """Descriptions of tensors with another shape, missing ones, and extra ones."""
    missing = [f"{name} is missing" for name in own if name not in given]
    extra = [f"{name} has no place in the network" for name in sorted(given) if name not in own]
    shapes = [
        f"{name} has shape {tuple(given[name].shape)}; the network has {tuple(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    return [kind for kind in (shapes, missing, extra) if kind]


def _hint(own: State, given: State) -> str:
    shortcut = [name for name in own if name not in given and ".shortcut." in name]
    if shortcut and all(name in given or ".shortcut." in name for name in own):
        return "\nit has no projection shortcuts: try network.shortcut=padding"
    if any(".a" in name[-2:] for name in set(own) - set(given)):
        return "\nit has no slopes: try network.activation=relu"
    return "\nname the architecture it was trained with: network=..., network.depth=..., network.shortcut=..."
