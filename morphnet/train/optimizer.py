"""The optimizer of a phase."""

from __future__ import annotations

import torch
from torch import nn

from morphnet.config import OptimConfig
from morphnet.train.handover import Beginning, set_momentum


def make_optimizer(
    network: nn.Module,
    lr: float,
    optimisation: OptimConfig | None = None,
    beginning: Beginning | None = None,
) -> torch.optim.SGD:
    """SGD over all parameters of ``network``, without weight decay on the slopes of Eq. (8).

    A decay of ``a`` would pull new layers from the identity (a = 1) back to the plain activation (a = 0). Momentum
    exists from the beginning, as zeros, so that every step is the same sequence of operations.

    Args:
        beginning: rates and momentum of parameters that existed before the phase.
    """
    optimisation, beginning = optimisation or OptimConfig(), beginning or Beginning()
    parameters: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, optimisation.weight_decay): []}
    for name, parameter in network.named_parameters():
        factor = beginning.kept_lr if name in beginning.kept else 1.0
        decay = 0.0 if name.endswith(".a") else optimisation.weight_decay
        parameters.setdefault((factor, decay), []).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": chosen, "weight_decay": decay, **({"lr_factor": factor} if factor != 1 else {})}
        for (factor, decay), chosen in parameters.items()
        if chosen or len(parameters) == 1
    ]
    momentum, nesterov = optimisation.momentum, optimisation.nesterov
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
    if momentum:
        for group in optimizer.param_groups:
            for parameter in filter(lambda p: p.requires_grad, group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    set_momentum(network, optimizer, beginning.momentum)
    return optimizer
