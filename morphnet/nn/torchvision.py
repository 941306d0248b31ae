"""torchvision's ResNets as ours."""

from __future__ import annotations

import torch
from torch import nn

from morphnet.nn.mode import evaluation_mode
from morphnet.nn.resnet import Architecture, BlockKind, ResNet


def convert_torchvision(network: nn.Module) -> ResNet | None:
    """The same function as one of our ResNets: same parameter names, one activation per place.

    Returns:
        None if ``network`` is no torchvision ResNet, or is of another kind than ResNet-18, -34, -50, -101 and -152:
        with grouped (ResNeXt), wide or dilated convolutions.

    Raises:
        ValueError: the converted network does not compute the same, as where a layer was exchanged.
    """
    if not type(network).__module__.startswith("torchvision.models."):
        return None  # without importing torchvision, which takes seconds
    from torchvision.models.resnet import BasicBlock, Bottleneck
    from torchvision.models.resnet import ResNet as TorchvisionResNet

    if not isinstance(network, TorchvisionResNet):
        return None
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    blocks = [block for stage in stages for block in stage]
    if all(isinstance(block, BasicBlock) for block in blocks):
        kind: BlockKind = "basic"
    elif all(isinstance(block, Bottleneck) for block in blocks):
        kind = "bottleneck"
    else:
        return None
    if (network.groups, network.base_width, network.dilation) != (1, 64, 1):
        return None
    if not isinstance(network.fc, nn.Linear):
        raise ValueError(f"this torchvision ResNet has a {type(network.fc).__name__} as its fc; a Linear is needed")
    architecture = Architecture(
        "imagenet",
        tuple(len(stage) for stage in stages),
        tuple(int(stage[0].conv1.out_channels) for stage in stages),
        network.fc.out_features,
        network.conv1.in_channels,
        block=kind,
    )
    converted = ResNet(architecture).to(next(network.parameters()))
    try:
        converted.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise ValueError(f"this {type(network).__name__} is not a plain torchvision ResNet: {error}") from error
    difference = _largest_difference(network, converted)
    if not difference == 0:
        raise ValueError(f"the converted network differs from torchvision's by {difference:.1e}: a layer was exchanged")
    return converted.train(network.training)


def _largest_difference(first: nn.Module, second: nn.Module) -> float:
    parameter = next(first.parameters())
    x = torch.randn(2, parameter.shape[1], 64, 64, generator=torch.Generator().manual_seed(0)).to(parameter)
    with torch.no_grad(), evaluation_mode(first), evaluation_mode(second):
        return float((first(x) - second(x)).abs().max())
