"""Residual networks whose shortcuts are parts that can be replaced."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphnet.nn.activation import FUNCTIONS, Activation, ParametricActivation
from morphnet.nn.branch import ShortcutShape, SplitShortcut
from morphnet.nn.initialise import initialise
from morphnet.nn.replace import replace_module
from morphnet.nn.structure import describe_structure, restore_structure
from morphnet.nn.subsample import subsample

Family = Literal["cifar", "imagenet"]
BlockKind = Literal["basic", "bottleneck"]
ShortcutKind = Literal["projection", "padding"]

#: Layers with weights in a block of each kind, and the channels that leave it over the width of its stage.
BLOCK_LAYERS = {"basic": 2, "bottleneck": 3}
EXPANSION = {"basic": 1, "bottleneck": 4}


@dataclass(frozen=True)
class Architecture:
    """A ResNet as a value: equal architectures have equal parameter names and shapes.

    Attributes:
        family: ``cifar`` (3x3 stem, stages ``layer1`` to ``layer3``, classifier ``linear``) or ``imagenet``
            (torchvision's: 7x7 stem with pooling, classifier ``fc``, projections named ``downsample``).
        blocks: residual blocks in each stage.
        widths: channels of each stage; those between the convolutions of a bottleneck.
        classes: classes of the classifier.
        in_channels: channels of the image.
        shortcut: where a block changes the shape: ``projection`` (1x1 convolution and BN) or ``padding``
            (every second pixel, channels padded with zeros: option A of He et al. 2015).
        activation: a name in ``FUNCTIONS``, or the same with a ``p`` before it for the parametric form of
            Eq. (8): ``relu`` is ReLU, ``prelu`` is PReLU with one slope per channel.
        shortcuts: the morphed shortcuts, by the name of their block, such as ``layer1.1``.
        block: of every stage: ``basic`` (two 3x3 convolutions) or ``bottleneck`` (1x1, 3x3, and 1x1 to four times the
            width), as in ResNet-50 and deeper.
    """

    family: Family
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    classes: int
    in_channels: int = 3
    shortcut: ShortcutKind = "projection"
    activation: str = "relu"
    shortcuts: dict[str, ShortcutShape] = field(default_factory=dict)
    block: BlockKind = "basic"

    def __post_init__(self) -> None:
        choices = {"network.family": Family, "network.shortcut": ShortcutKind, "block": BlockKind}
        for key, kind in choices.items():
            choice, allowed = getattr(self, key.removeprefix("network.")), get_args(kind)
            if choice not in allowed:
                raise ValueError(f"{key}={choice!r}; expected {' or '.join(map(repr, allowed))}")
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise ValueError(
                f"network.widths={list(self.widths)}: one width per stage is needed, {len(self.blocks)} in all"
            )
        for what, values in (("blocks", self.blocks), ("network.widths", self.widths)):
            if min(values) < 1:
                raise ValueError(f"{what}={list(values)}: every value must be at least 1")
        if self.classes < 1 or self.in_channels < 1:
            raise ValueError(f"classes={self.classes}, in_channels={self.in_channels}: both must be at least 1")
        if self.shortcut == "padding" and list(self.widths) != sorted(self.widths):
            widths = list(self.widths)
            raise ValueError(f"network.widths={widths}: padding shortcuts cannot drop channels; use projection")
        if split_activation(self.activation)[0] not in FUNCTIONS:
            known = f"expected one of {', '.join(FUNCTIONS)}, or the same with 'p' before it for the parametric form"
            raise ValueError(f"network.activation={self.activation!r}; {known}")

    @property
    def depth(self) -> int:
        """Layers with weights, projections not counted, as in the names of the paper's tables."""
        return BLOCK_LAYERS[self.block] * sum(self.blocks) + 2

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Channels that leave each block of a stage, which are those of its shortcut: one number per stage."""
        return tuple(EXPANSION[self.block] * width for width in self.widths)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for :meth:`from_dict` and for the hash of a network; without ``block`` where it is basic."""
        values = asdict(self)
        if self.block == "basic":
            del values["block"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """The architecture that :meth:`to_dict` wrote; lists in place of tuples are welcome (JSON).

        Raises:
            ValueError: a key is missing, unknown, or of the wrong kind.
        """
        try:
            shortcuts = {
                name: ShortcutShape(**{**shape, "kernel_sizes": tuple(shape["kernel_sizes"])})
                for name, shape in values.get("shortcuts", {}).items()
            }
            sizes = {key: tuple(values[key]) for key in ("blocks", "widths")}
            return cls(**{**values, **sizes, "shortcuts": shortcuts})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the description of a network: {error}") from error


def cifar_architecture(depth: int, classes: int, **settings: Any) -> Architecture:
    """The CIFAR ResNet of ``depth`` = 6n + 2 layers: three stages of n basic blocks.

    Raises:
        ValueError: the depth is not of this form.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(
            f"network.depth={depth}: a CIFAR ResNet has 6n+2 layers: 8, 14, 20, 26, 32, 38, 44, 50, 56, ..."
        )
    widths = tuple(settings.pop("widths", (16, 32, 64)))
    return Architecture("cifar", ((depth - 2) // 6,) * 3, widths, classes, block="basic", **settings)


#: Blocks per stage of the ImageNet ResNets, by depth: from 50 layers on they are bottlenecks.
IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def imagenet_architecture(depth: int, classes: int = 1000, **settings: Any) -> Architecture:
    """The ImageNet ResNet of 18 or 34 layers (basic blocks), 50, 101 or 152 (bottlenecks), as torchvision has them.

    Raises:
        ValueError: the depth is none of these.
    """
    if depth not in IMAGENET_BLOCKS:
        raise ValueError(f"network.depth={depth}: an ImageNet ResNet has 18, 34, 50, 101 or 152 layers")
    widths = tuple(settings.pop("widths", (64, 128, 256, 512)))
    block: BlockKind = "basic" if depth < 50 else "bottleneck"
    return Architecture("imagenet", IMAGENET_BLOCKS[depth], widths, classes, block=block, **settings)


def split_activation(name: str) -> tuple[str, bool]:
    """phi and whether ``name`` is its parametric form: ``"prelu"`` is ``("relu", True)``."""
    if name not in FUNCTIONS and name.startswith("p") and name[1:] in FUNCTIONS:
        return name[1:], True
    return name, False


def parametric_name(name: str) -> str:
    """The name of the parametric form: ``prelu`` for both ``relu`` and ``prelu``."""
    return "p" + split_activation(name)[0]


def phi_of(name: str) -> str:
    """phi of the name of an activation in either form: ``relu`` for both ``relu`` and ``prelu``.

    Raises:
        TypeError, ValueError: ``name`` is no string, or names no activation.
    """
    if not isinstance(name, str):
        raise TypeError(f"activation: a name such as 'prelu' is needed; got {type(name).__name__}")
    phi, _ = split_activation(name)
    if phi not in FUNCTIONS:
        raise ValueError(f"activation={name!r}; expected one of {', '.join(parametric_name(f) for f in FUNCTIONS)}")
    return phi


class PaddingShortcut(nn.Module):
    """Every ``stride``-th pixel, with channels of zeros on either side (option A of He et al. 2015)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(subsample(x, (self.stride, self.stride)), self.padding)


class ResidualBlock(nn.Module):
    """Convolutions with batch normalisation and activations, plus a shortcut that can be replaced, then an activation.

    ``basic``: 3x3, 3x3. ``bottleneck``: 1x1, 3x3, and 1x1 to four times ``channels``. The first 3x3 convolution has the
    stride, as in torchvision ("v1.5"); in He et al. 2015 the first convolution of a bottleneck has it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, arch: Architecture, name: str) -> None:
        super().__init__()
        kernels = (3, 3) if arch.block == "basic" else (1, 3, 1)
        self.depth, out_channels = len(kernels), EXPANSION[arch.block] * channels
        widths = (in_channels, *[channels] * (self.depth - 1), out_channels)
        for i, kernel in enumerate(kernels):
            step = stride if i == kernels.index(3) else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
            self.add_module(f"act{i + 1}", _activation(arch, widths[i + 1]))
        # The name in the trained networks of the family, so that their weights fit.
        self.shortcut_name = "downsample" if arch.family == "imagenet" else "shortcut"
        self.add_module(self.shortcut_name, _shortcut(in_channels, out_channels, stride, arch, name))

    @property
    def shortcut_part(self) -> nn.Module:
        """The module on the shortcut path, an ``nn.Identity`` if the block has none."""
        return self.get_submodule(self.shortcut_name)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = getattr(self, f"act{i}")(y)
        return getattr(self, f"act{self.depth}")(y + getattr(self, self.shortcut_name)(x))


def _shortcut(in_channels: int, out_channels: int, stride: int, arch: Architecture, name: str) -> nn.Module:
    """The shortcut of block ``name``: a morphed one, an identity, or what changes the shape."""
    identity = stride == 1 and in_channels == out_channels
    if name in arch.shortcuts:
        if not identity:
            raise ValueError(f"{name}: its shortcut changes the shape, so it cannot be a split identity")
        return SplitShortcut(out_channels, arch.shortcuts[name])
    if identity:
        return nn.Identity()
    if arch.shortcut == "padding":
        return PaddingShortcut(in_channels, out_channels, stride)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """The residual network that an :class:`Architecture` describes.

    ``metadata`` is what a saved network carries beside its weights: plain JSON values, such as the mean and
    standard deviation of its images and its lineage.

    Shapes: ``(N, in_channels, H, W)`` to logits ``(N, classes)``.
    """

    def __init__(self, architecture: Architecture, generator: torch.Generator | None = None) -> None:
        super().__init__()
        arch = self.architecture = architecture
        self.metadata: dict[str, Any] = {}
        stem = arch.widths[0]
        imagenet = arch.family == "imagenet"
        self.conv1 = nn.Conv2d(arch.in_channels, stem, *((7, 2, 3) if imagenet else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act = _activation(arch, stem)
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        self.stages = [f"layer{i}" for i in range(1, len(arch.blocks) + 1)]
        channels = stem
        for stage, count, width, leaving in zip(
            self.stages, arch.blocks, arch.widths, arch.block_channels, strict=True
        ):
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and stage != "layer1" else 1
                blocks.append(ResidualBlock(channels, width, stride, arch, f"{stage}.{i}"))
                channels = leaving
            self.add_module(stage, nn.Sequential(*blocks))
        unknown = set(arch.shortcuts) - {name for name, _ in self.named_blocks()}
        if unknown:
            raise ValueError(f"no block is called {', '.join(sorted(unknown))}")
        self.classifier_name = "fc" if imagenet else "linear"
        self.add_module(self.classifier_name, nn.Linear(channels, arch.classes))
        if not self.conv1.weight.is_meta:  # PyTorch would take seconds to initialise nothing
            initialise(self, generator)

    def named_blocks(self) -> Iterator[tuple[str, ResidualBlock]]:
        """Every residual block with its name, such as ``("layer1.0", ...)``, in the order of the data."""
        for stage in self.stages:
            for i, block in enumerate(self.get_submodule(stage).children()):
                assert isinstance(block, ResidualBlock)
                yield f"{stage}.{i}", block

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return getattr(self, self.classifier_name)(x)


def bare(architecture: Architecture) -> ResNet:
    """A network of ``architecture`` without weights, on the meta device."""
    with torch.device("meta"):
        return ResNet(architecture)


def describe_morphs(network: ResNet) -> dict[str, Any]:
    """Where the layers of ``network`` differ from those of a plain network of its architecture."""
    return describe_structure(network, _plain(json.dumps(network.architecture.to_dict())))


@lru_cache(maxsize=32)
def _plain(architecture: str) -> ResNet:
    return bare(Architecture.from_dict(json.loads(architecture)))  # shared, so nothing may change it


def restore_morphs(network: ResNet, structure: dict[str, Any]) -> None:
    """Gives ``network`` the layers of :func:`describe_morphs`, in place.

    Parametric activations get the width of the batch normalisation before them: ``structure`` does not list those that
    were plain in the other network.

    Raises:
        ValueError: see :func:`~morphnet.nn.structure.restore_structure`.
    """
    restore_structure(network, structure)
    parts = dict(network.named_modules())
    for name, act in parts.items():
        head, _, last = name.rpartition(".")
        norm = parts.get(f"{head}.{last.replace('act', 'bn')}".lstrip("."))
        if not isinstance(act, ParametricActivation) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.num_features != act.a.numel():
            wider = ParametricActivation(act.function, norm.num_features).to(act.a)
            replace_module(network, act, wider.train(act.training))


def rebuild(network: ResNet, architecture: Architecture | None = None) -> ResNet:
    """A network of ``architecture`` with the morphed layers, weights, metadata, dtype and mode of ``network``.

    Layers that ``network`` does not have, or has in another shape, start as in a fresh network. No tensor is shared.

    Args:
        architecture: by default that of ``network``.
    """
    with torch.device("meta"):  # drawing initial weights would take longer than all else
        built = ResNet(architecture or network.architecture)
        restore_morphs(built, describe_morphs(network))
    like, state = next(network.parameters()), network.state_dict()
    built = built.to_empty(device=like.device).to(like.dtype)
    kept = {k: state[k] for k, v in built.state_dict().items() if k in state and state[k].shape == v.shape}
    built.load_state_dict(kept, strict=False)
    for name, module in built.named_modules():
        tensors = [*module.named_parameters(name, recurse=False), *module.named_buffers(name, recurse=False)]
        if any(key not in kept for key, _ in tensors):
            module.reset_parameters()  # type: ignore[operator]
    built.metadata = copy.deepcopy(network.metadata)
    return built.train(network.training)


def with_parametric_activations(network: ResNet) -> ResNet:
    """A copy of ``network`` whose plain activations are of the parametric form with a = 0: the same function.

    Source: Sec. 3.7 ("all ReLUs are replaced with PReLUs").
    """
    architecture = network.architecture
    return rebuild(network, replace(architecture, activation=parametric_name(architecture.activation)))


def _activation(arch: Architecture, channels: int) -> nn.Module:
    phi, parametric = split_activation(arch.activation)
    return ParametricActivation(phi, channels) if parametric else Activation(phi)
