"""What a phase takes over from the phase before, beside its network: momentum, rates, a share of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from morphnet.config import AfterConfig
from morphnet.nn.initialise import initialise
from morphnet.store import write_whole

#: In the folder of a phase: the momentum that it ended with.
MOMENTUM_FILE = "momentum.safetensors"


@dataclass(frozen=True)
class Beginning:
    """What a phase begins with, apart from its network.

    Attributes:
        kept: names of the parameters that the network before had as well; they are trained at ``kept_lr`` times the
            rate.
        momentum: what parameters begin with, by name; zeros for the others.
    """

    kept: frozenset[str] = frozenset()
    kept_lr: float = 1.0
    momentum: Mapping[str, Tensor] = field(default_factory=dict)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by name."""
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a saved network, by name; no tensor is read.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def kept_parameters(network: nn.Module, before: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Names of the parameters of ``network`` that a network of the shapes ``before`` had as well."""
    return frozenset(name for name, shape in shapes_of(network).items() if before.get(name) == shape)


def shrink_and_perturb(network: nn.Module, after: AfterConfig, generator: torch.Generator) -> None:
    """Mixes convolutions and linear layers with random ones, in place; normalisations and slopes stay.

    Running statistics stay those of the old weights until training measures new ones.
    """
    fresh = copy.deepcopy(network)
    initialise(fresh.cpu(), generator)
    random = dict(fresh.named_modules())
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                for key, parameter in module.named_parameters(recurse=False):
                    drawn = random[name].get_parameter(key).to(parameter)
                    parameter.mul_(after.shrink).add_(drawn, alpha=after.perturb)


def momentum_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The momentum of every parameter that has one, by name, on the CPU."""
    found = {}
    for name, parameter in network.named_parameters():
        value = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if value is not None:
            found[name] = value.detach().cpu().contiguous()
    return found


def set_momentum(network: nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, Tensor]) -> None:
    """Sets the momentum of parameters whose name and shape ``momentum`` has; the others keep theirs."""
    for name, parameter in network.named_parameters():
        here, given = optimizer.state.get(parameter, {}).get("momentum_buffer"), momentum.get(name)
        if here is not None and given is not None and given.shape == here.shape:
            here.copy_(given)


def save_momentum(momentum: Mapping[str, Tensor], folder: Path) -> None:
    """Writes ``momentum`` into the folder of a phase."""
    write_whole(folder / MOMENTUM_FILE, save(dict(momentum)))


def load_momentum(folder: Path) -> dict[str, Tensor]:
    """The momentum that the phase in ``folder`` ended with.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = folder / MOMENTUM_FILE
    if not path.is_file():
        raise ValueError(
            f"after.momentum=kept needs the momentum that its parent ended with, and there is no {path}: a network "
            "from elsewhere has none; give after.momentum=fresh"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); give after.momentum=fresh") from error
