"""torchvision's ResNets as ours."""

from __future__ import annotations

import torch
from torch import nn

from morphnet.nn.mode import evaluation_mode
from morphnet.nn.resnet import Architecture, BlockKind, ResNet


def convert_torchvision(network: nn.Module) -> ResNet | None:
    """The same function as one of our ResNets, with the same parameter names.

    Returns:
        None unless ``network`` is torchvision's ResNet-18, -34, -50, -101 or -152 (no ResNeXt, wide or dilated one).

    Raises:
        ValueError: the converted network computes something else, because a layer was exchanged.
    """
    if not type(network).__module__.startswith("torchvision.models."):
        return None  # without importing torchvision, which takes seconds
    from torchvision.models.resnet import BasicBlock, Bottleneck
    from torchvision.models.resnet import ResNet as TorchvisionResNet

    if not isinstance(network, TorchvisionResNet):
        return None
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    blocks = [block for stage in stages for block in stage]
    kinds: dict[type[nn.Module], BlockKind] = {BasicBlock: "basic", Bottleneck: "bottleneck"}
    kind = next((kind for cls, kind in kinds.items() if all(isinstance(block, cls) for block in blocks)), None)
    if kind is None or (network.groups, network.base_width, network.dilation) != (1, 64, 1):
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
    x = torch.randn(2, architecture.in_channels, 64, 64, generator=torch.Generator().manual_seed(0))
    x = x.to(next(network.parameters()))
    with torch.no_grad(), evaluation_mode(network), evaluation_mode(converted):
        difference = float((network(x) - converted(x)).abs().max())
    if not difference == 0:
        raise ValueError(f"the converted network differs from torchvision's by {difference:.1e}: a layer was exchanged")
    return converted.train(network.training)
