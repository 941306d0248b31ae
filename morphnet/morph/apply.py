"""From a plan and a parent to a child: the filters of every new branch, and the parent's weights beside them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from morphnet.graph import Edge, ModuleGraph
from morphnet.morph.plan import BlockMorph, MorphPlan
from morphnet.morph.report import LayerReport
from morphnet.nn.branch import Branch, ShortcutShape, SplitShortcut
from morphnet.nn.resnet import ResNet, describe_morphs, restore_morphs
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
    identity. The batch normalisations of new branches
    are fresh: they have to be set before the child computes anything of use.

    Args:
        parent: a float64 network of the architecture the plan was made for.
        generator: a CPU generator; the filters are a function of its state.
        method: ``auto``, or ``net2net`` for an identity insert: both filters of a branch are multiples of the identity.
        init: ``dense`` or ``sparse``; they differ where the shortcut's padding is ``exact`` and a kernel exceeds 1x1.

    Raises:
        ValueError: the morphism equation of a branch could not be solved.
    """
    structure = describe_morphs(parent)
    child = child_like(parent, plan).double().to(next(parent.parameters()).device)
    state = child.state_dict()
    inherited = parent.state_dict()
    for name, value in inherited.items():
        if name in state and value.shape == state[name].shape:
            state[name] = value
    grown = tuple(f"{name}." for name in structure["modules"])
    for name in state:
        if name not in inherited and name.endswith(".a") and ".branches." not in name and not name.startswith(grown):
            state[name] = torch.zeros_like(state[name])  # the parent's own places: a = 0, the plain activation
    child.load_state_dict(state)
    blocks, parent_blocks = dict(child.named_blocks()), dict(parent.named_blocks())
    new_branches: list[Branch] = []
    layers = []
    for change in plan.blocks:
        started = time.perf_counter()
        shortcut = blocks[change.block].shortcut_part
        assert isinstance(shortcut, SplitShortcut)
        old = parent_blocks[change.block].shortcut_part
        kept = len(old.branches) if isinstance(old, SplitShortcut) else 0
        residual, condition = 0.0, 1.0
        with torch.no_grad():
            for i, module in enumerate(shortcut.branches):
                assert isinstance(module, Branch)
                if i < kept:
                    assert isinstance(old, SplitShortcut)
                    _grow_kernels(module, old.branches[i])
                    continue
                solution = _solve_branch(change, change.after.shares[i], generator, method, init)
                for conv, weight in ((module.conv1, solution.inner), (module.conv2, solution.outer)):
                    conv.weight.copy_(zero_pad(weight, (conv.kernel_size[0], conv.kernel_size[1])))
                new_branches.append(module)
                residual, condition = max(residual, solution.residual), max(condition, solution.condition)
        seconds = time.perf_counter() - started
        layers.append(
            LayerReport(
                name=change.block,
                change=_words(change),
                residual=residual,
                condition=condition,
                zero_share=_zero_share(shortcut),
                shape=change.after,
                seconds=seconds,
            )
        )
    return Applied(child.eval(), tuple(new_branches), tuple(layers))


def child_like(parent: ResNet, plan: MorphPlan) -> ResNet:
    """The child of ``plan`` with weights of no meaning; what else was morphed in ``parent`` is in it.

    Raises:
        ValueError: a shortcut that the plan touches has become a module.
    """
    structure = describe_morphs(parent)
    shortcuts = {change.block: _shortcut_name(parent, change.block) for change in plan.blocks}
    replaced = [
        block
        for block, part in shortcuts.items()
        if any(f"{name}.".startswith(f"{part}.") for name in structure["modules"])
    ]
    if replaced:
        raise ValueError(
            f"the shortcut of {', '.join(replaced)} is a module already, or has one in it, which {plan.spec} knows "
            "nothing of"
        )
    child = ResNet(plan.child)
    restore_morphs(child, structure)
    return child


def _shortcut_name(network: ResNet, block: str) -> str:
    return f"{block}.{dict(network.named_blocks())[block].shortcut_name}"


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
        found = solve(ModuleGraph([first, second], {"a": mid}), share * eye, generator=generator)
        inner, outer = found.filters[first], found.filters[second]
        solution = Type1Solution(inner, outer, found.residual, found.condition, found.converged, found.outcome)
    else:
        if method == "net2net":
            inner = torch.eye(mid, change.channels, dtype=torch.float64)[:, :, None, None]
        else:
            inner = orthogonal(mid, change.channels, generator)[:, :, None, None]
        solution = solve_type1(share * eye, inner, (1, 1))
    if not solution.converged:
        raise ValueError(f"{change.block}: the morphism equation was not solved: {solution.outcome}")
    return solution


def _grow_kernels(branch: Branch, old: torch.nn.Module) -> None:
    assert isinstance(old, Branch)
    for conv, before in ((branch.conv1, old.conv1), (branch.conv2, old.conv2)):
        conv.weight.copy_(zero_pad(before.weight, (conv.kernel_size[0], conv.kernel_size[1])))


def _zero_share(shortcut: SplitShortcut) -> float:
    filters: list[Tensor] = [p for p in shortcut.parameters() if p.dim() == 4]
    zeros = sum(int((f == 0).sum()) for f in filters)
    return zeros / sum(f.numel() for f in filters)


def _words(change: BlockMorph) -> str:
    def name(shape: ShortcutShape | None) -> str:
        return "identity" if shape is None else str(MorphSpec(shape.kernel_sizes, shape.two_branches))

    return f"{name(change.before)} -> {name(change.after)}"
