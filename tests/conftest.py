"""Small networks with lived-in batch normalisation, and data to go with them."""

from __future__ import annotations

import copy
import gc
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra
from torch import Tensor

from morphnet.nn.resnet import Architecture, ResNet, cifar_architecture

torch.set_num_threads(1)  # the tests run in two processes
gc.set_threshold(10_000, 20, 20)  # copies of networks and configurations are made and dropped by the thousand

# What a shell script starts in its background ignores Ctrl-C, and so would every process of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hydra composes twice, the first time to see whether a configuration asks for a sweep, which none of ours does.
# Commands that the tests start in processes of their own do it as ever.
Hydra.get_mode = lambda self, config_name, overrides: None

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def make_network() -> Callable[..., ResNet]:
    def make(depth: int = 14, seed: int = 0, **settings: object) -> ResNet:
        """A narrow CIFAR ResNet whose running statistics and slopes are those of no fresh network."""
        settings.setdefault("widths", (4, 8, 16))
        return copy.deepcopy(_network(depth, seed, **settings))

    return make


@pytest.fixture
def make_bottlenecks() -> Callable[..., ResNet]:
    def make(family: str = "imagenet", **settings: object) -> ResNet:
        """The same of bottlenecks: two stages, 16 and 32 channels between their blocks."""
        return copy.deepcopy(_bottlenecks(family, **settings))

    return make


@cache
def _bottlenecks(family: str, **settings: object) -> ResNet:
    generator = torch.Generator().manual_seed(0)
    architecture = Architecture(family, (2, 3), (4, 8), 10, block="bottleneck", **settings)
    return _lived_in(ResNet(architecture, generator), generator)


@cache
def _network(depth: int, seed: int, **settings: object) -> ResNet:
    generator = torch.Generator().manual_seed(seed)
    return _lived_in(ResNet(cifar_architecture(depth, 10, **settings), generator), generator)


def _lived_in(network: ResNet, generator: torch.Generator) -> ResNet:
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.dim() == 1:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
                if name.endswith(".a"):
                    value.abs_()
        network.train()
        for _ in range(20):
            network(torch.randn(32, network.architecture.in_channels, 16, 16, generator=generator))
    return network.eval()


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 3, 16, 16, generator=generator) for _ in range(4)]


@pytest.fixture
def trained_parent() -> Path:
    path = SHARED / "data" / "parents" / "akamaster_resnet20.safetensors"
    if not path.is_file():
        pytest.skip("the trained parent of shared/data is not here")
    return path


@pytest.fixture
def imagenet_sample() -> Path:
    path = SHARED / "data" / "imagenet-sample"
    if not path.is_dir():
        pytest.skip("the ImageNet sample of shared/data is not here")
    return path
