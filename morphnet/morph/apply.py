"""The child of a plan: the parent's weights, and solved filters for every new branch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from morphnet.graph import Edge, ModuleGraph
from morphnet.morph.plan import BlockMorph, MorphPlan
from morphnet.morph.report import LayerReport
from morphnet.nn.branch import Branch, ShortcutShape, SplitShortcut
from morphnet.nn.resnet import ResNet, describe_morphs, rebuild
from morphnet.solvers import Type1Solution, orthogonal, solve, solve_type1, zero_pad
from morphnet.spec import MorphSpec


@dataclass(frozen=True)
class Applied:
    """A child before its new batch normalisations are set, with the branches that are new in it."""

    child: ResNet
    new_branches: tuple[Branch, ...]
    layers: tuple[LayerReport, ...]


def apply_morph(
    parent: ResNet, plan: MorphPlan, generator: torch.Generator, method: str = "auto", init: str = "dense"
) -> Applied:
    """The child of ``plan``, in float64 and evaluation mode: no tensor is shared with ``parent``.

    Kernels that grow are padded with zeros; a new branch gets two filters that solve Eq. (2) for its share of the
    identity. The batch normalisations of new branches are fresh and must be set before the child is used.

    Args:
        parent: a float64 network of the architecture the plan was made for.
        generator: a CPU generator; the filters are a function of its state.
        method: ``auto``, or ``net2net`` for an identity insert: both filters of a branch are multiples of the identity.
        init: ``dense`` or ``sparse``; they differ where the shortcut's padding is ``exact`` and a kernel exceeds 1x1.

    Raises:
        ValueError: the morphism equation of a branch could not be solved.
    """
    check_shortcuts(parent, plan)
    child = rebuild(parent, plan.child).eval()
    shortcuts, old_shortcuts = (
        {name: block.shortcut_part for name, block in network.named_blocks()} for network in (child, parent)
    )
    new_branches: list[Branch] = []
    layers = []
    for change in plan.blocks:
        started = time.perf_counter()
        shortcut, old = shortcuts[change.block], old_shortcuts[change.block]
        assert isinstance(shortcut, SplitShortcut)
        before = list(old.branches) if isinstance(old, SplitShortcut) else []
        residual, condition = 0.0, 1.0
        for i, branch in enumerate(shortcut.branches):
            assert isinstance(branch, Branch)
            if i < len(before):
                inner: Tensor = before[i].get_parameter("conv1.weight")
                outer: Tensor = before[i].get_parameter("conv2.weight")
            else:
                solution = _solve_branch(change, change.after.shares[i], generator, method, init)
                inner, outer = solution.inner, solution.outer
                new_branches.append(branch)
                residual, condition = max(residual, solution.residual), max(condition, solution.condition)
            with torch.no_grad():
                for conv, weight in ((branch.conv1, inner), (branch.conv2, outer)):
                    conv.weight.copy_(zero_pad(weight, (conv.kernel_size[0], conv.kernel_size[1])))
        layers.append(
            LayerReport(
                name=change.block,
                change=f"{_words(change.before)} -> {_words(change.after)}",
                residual=residual,
                condition=condition,
                zero_share=zero_share(shortcut),
                shape=change.after,
                seconds=time.perf_counter() - started,
            )
        )
    return Applied(child, tuple(new_branches), tuple(layers))


def check_shortcuts(parent: ResNet, plan: MorphPlan) -> None:
    """Refuses a plan for shortcuts that are graph modules.

    Raises:
        ValueError: a shortcut that the plan touches is or contains a module.
    """
    blocks, modules = dict(parent.named_blocks()), describe_morphs(parent)["modules"]
    parts = {change.block: f"{change.block}.{blocks[change.block].shortcut_name}." for change in plan.blocks}
    replaced = [block for block, part in parts.items() if any(f"{name}.".startswith(part) for name in modules)]
    if replaced:
        raise ValueError(
            f"the shortcut of {', '.join(replaced)} is a module already, or has one in it; {plan.spec} cannot morph it"
        )


def child_like(parent: ResNet, plan: MorphPlan) -> ResNet:
    """The child of ``plan`` before its filters are solved; what else was morphed in ``parent`` is in it.

    Raises:
        ValueError: a shortcut that the plan touches has become a module.
    """
    check_shortcuts(parent, plan)
    return rebuild(parent, plan.child)


def _solve_branch(
    change: BlockMorph, share: float, generator: torch.Generator, method: str, init: str
) -> Type1Solution:
    """Two filters whose composition is ``share`` times the identity.

    With the layers' own ("same") padding both are 1x1, to be padded with zeros: exact on the border, whatever the
    kernels. With ``padding=exact`` and a dense start their kernels are filled where that is possible.
    """
    kernels, mid = change.after.kernel_sizes, change.after.mid_channels
    eye = torch.eye(change.channels, dtype=torch.float64)[:, :, None, None]
    if method == "auto" and init == "dense" and change.after.padding == "exact" and max(kernels) > 1:
        first, second = Edge("s", "a", kernels[0]), Edge("a", "t", kernels[1])
        module = solve(ModuleGraph([first, second], {"a": mid}), share * eye, generator=generator)
        inner, outer = module.filters[first], module.filters[second]
        solution = Type1Solution(inner, outer, module.residual, module.condition, module.converged, module.outcome)
    else:
        if method == "net2net":
            inner = torch.eye(mid, change.channels, dtype=torch.float64)[:, :, None, None]
        else:
            inner = orthogonal(mid, change.channels, generator)[:, :, None, None]
        solution = solve_type1(share * eye, inner, (1, 1))
    if not solution.converged:
        raise ValueError(f"{change.block}: the morphism equation was not solved: {solution.outcome}")
    return solution


def zero_share(layer: nn.Module) -> float:
    """Share of exact zeros in the filters of ``layer``."""
    filters = [p for p in layer.parameters() if p.dim() == 4]
    return sum(int((f == 0).sum()) for f in filters) / max(sum(f.numel() for f in filters), 1)


def _words(shape: ShortcutShape | None) -> str:
    return "identity" if shape is None else str(MorphSpec(shape.kernel_sizes, shape.two_branches))
