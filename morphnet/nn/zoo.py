"""torchvision's classifiers by name: built, recognised, and described as plain values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from morphnet.nn.structure import describe_structure, restore_structure

#: Networks that a file or a command line may name as ``torchvision:NAME``.
NAMES = (
    "alexnet", "densenet121", "densenet161", "densenet169", "densenet201", "efficientnet_b0", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet34", "resnet50", "resnet101",
    "resnet152", "resnext50_32x4d", "shufflenet_v2_x1_0", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn",
    "vgg19", "vgg19_bn", "wide_resnet50_2",
)  # fmt: skip
#: Size ``(C, H, W)``, mean and deviation of the images they were trained on.
INPUT_SIZE, MEAN, STD = (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name: str, classes: int = 1000, weights: str | None = None) -> nn.Module:
    """torchvision's ``name``; ``weights="DEFAULT"`` downloads.

    Raises:
        ValueError: the name is not in ``NAMES``.
        OSError: the weights cannot be downloaded.
    """
    import torchvision

    if name not in NAMES:
        raise ValueError(f"torchvision:{name}: expected one of {', '.join(NAMES)}")
    settings: dict[str, Any] = {} if classes == 1000 else {"num_classes": classes}
    network: nn.Module = getattr(torchvision.models, name)(weights=weights, **settings)
    return network


def classes_of(network: nn.Module) -> int | None:
    """Outputs of the last linear layer; None if there is none."""
    last = [m for m in network.modules() if isinstance(m, nn.Linear)]
    return last[-1].out_features if last else None


def recognise(network: nn.Module) -> tuple[str, int, dict[str, Any]] | None:
    """Name, classes and changed layers of a torchvision network, plain or morphed; None if it is no such network."""
    import torchvision

    classes = classes_of(network)
    if classes is None or not type(network).__module__.startswith("torchvision.models."):
        return None
    if any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in network.modules()):
        return None  # it computes something else
    plain = _stripped(network)
    for name in NAMES:
        if getattr(torchvision.models, name).__module__ != type(network).__module__:
            continue
        try:
            with torch.device("meta"):
                candidate = build(name, classes)
        except NotImplementedError:  # RegNet reads values while it is built
            candidate = build(name, classes)
        structure = describe_structure(network)
        if type(candidate) is not type(network) or plain != _stripped(candidate, structure):
            continue
        changed = describe_structure(network, candidate)
        restore_structure(candidate, changed)
        ours, theirs = ({k: v.shape for k, v in each.state_dict().items()} for each in (network, candidate))
        if ours == theirs:
            return name, classes, changed
    return None


def _stripped(network: nn.Module, structure: dict[str, Any] | None = None) -> str:
    """The modules of ``network`` as text; those in ``structure`` (by default its own) are left open."""
    structure = describe_structure(network) if structure is None else structure
    grown = tuple(structure["modules"])
    open_names = {*grown, *structure["layers"]}
    lines = []
    for name, module in network.named_modules():
        if name.startswith(tuple(f"{g}." for g in grown)):
            continue
        leaf = not any(True for _ in module.children())
        kind = "?" if name in open_names else repr(module) if leaf else _container(module)
        lines.append(f"{name} {kind}")
    return "\n".join(lines)


def _container(module: nn.Module) -> str:
    """Class and plain settings of a module of modules, such as the drop rate of a dense layer."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str)) and k[0] != "_"}
    return f"{type(module).__name__} {sorted((k, str(v)) for k, v in plain.items() if k != 'training')}"
