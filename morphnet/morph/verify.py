"""The proof of a morph: the difference of parent and child, in evaluation and in training mode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from morphnet.morph.statistics import batch_statistics
from morphnet.nn.graph_conv import GraphConv2d
from morphnet.nn.mode import evaluation_mode, without_tf32

#: Largest difference of two logits over the largest logit, float64, before any cast.
EXACT_TOLERANCE = 1e-10
#: The same for the delivered child, by the dtype of its weights.
DELIVERED_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}
#: Largest change in training mode, as a share of the parent's own noise.
TRAINING_TOLERANCE = 0.2
#: Images in the float64 comparisons, which are slow; one image would already show a wrong filter.
EXACT_IMAGES = 128
#: The training mode is judged on at least so many held-out batches of so many images.
TRAINING_BATCHES, TRAINING_BATCH_SIZE = 4, 128
#: A parent with less noise, over the size of its logits, has none: it has no batch normalisation.
NO_NOISE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """Logits of two networks on the same images.

    ``relative`` is the largest difference over the largest logit of the parent; ``flips`` counts the images
    whose arg max differs.
    """

    images: int
    largest_difference: float
    largest_logit: float
    relative: float
    flips: int


@dataclass(frozen=True)
class TrainingMode:
    """Parent and child with batch statistics, on held-out batches.

    New batch normalisations add the fluctuation of their batch statistics even if they are set right. The difference is
    taken over ``TRAINING_BATCHES`` batches run as one, which halves the fluctuation but not the effect of a wrong
    gamma; the noise is taken on single batches.

    Attributes:
        difference: root mean square of (child - parent) over images and logits.
        noise: the same of the parent's own logits of one half of a batch when the other half is exchanged.
        ratio: difference over noise; 0 if the parent has no noise.
        size: root mean square of the parent's logits.
        judged: whether ``ratio`` counts as a check.
        unjudged: why it does not.
        parent_loss, child_loss: mean cross entropy; None without labels.
    """

    batches: int
    batch_size: int
    difference: float
    noise: float
    ratio: float
    judged: bool
    parent_loss: float | None
    child_loss: float | None
    unjudged: str = ""
    size: float = 0.0


@dataclass(frozen=True)
class Proof:
    """Everything that was measured to compare a parent with its child.

    Attributes:
        exactness: both in float64, before the child was cast.
        delivered: the child with its weights as delivered, computed in float64.
        own_dtype: parent and child, each computed in the dtype of its weights.
        noise_floor: the parent alone, in its own dtype against float64; relative, as in ``Comparison``.
        training: see :class:`TrainingMode`; None where a batch has fewer than two images.
        tolerance: limits of ``exactness.relative``, ``delivered.relative`` and ``training.ratio``.
        alone: the worst of all layers that became modules, each compared alone in float64: the network could hide a
            difference, for example if the next batch normalisation has gamma = 0. None without such layers.
    """

    exactness: Comparison
    delivered: Comparison
    own_dtype: Comparison
    noise_floor: float
    training: TrainingMode | None
    tolerance: dict[str, float]
    alone: Comparison | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for every check that failed."""
        checks = [
            ("float64 logits before the cast", self.exactness.relative, self.tolerance["exactness"]),
            ("logits of the child as delivered", self.delivered.relative, self.tolerance["delivered"]),
        ]
        if self.alone is not None:
            checks.append(("a replaced layer by itself", self.alone.relative, self.tolerance["exactness"]))
        if self.training is not None and self.training.judged:
            checks.append(("training mode, over the parent's noise", self.training.ratio, self.tolerance["training"]))
        return tuple(f"{what}: {value:.2e} > {limit:.0e}" for what, value, limit in checks if not value <= limit)


def prove(
    parent: nn.Module,
    child: nn.Module,
    exact_parent: nn.Module,
    exact_child: nn.Module,
    batches: Sequence[Tensor],
    labels: Sequence[Tensor] | None = None,
    others: Sequence[Tensor] = (),
) -> Proof:
    """Compares a parent and its child on held-out images.

    Args:
        parent, child: as they are and will be used, in their own dtype.
        exact_parent, exact_child: the same before the child was cast, float64.
        batches: float64 images, each of shape ``(N, C, H, W)``, that nothing was measured on.
        labels: of the images, each of shape ``(N,)``.
        others: further batches, from which a half is taken where ``batches`` has only one.

    Source: DESIGN of this project; the paper does not measure the change.
    """
    dtype = next(parent.parameters()).dtype
    with without_tf32(), torch.no_grad():
        few = torch.cat(list(batches))[:EXACT_IMAGES]
        reference = logits(exact_parent, few)
        exact = logits(exact_child, few)
        delivered = logits(copy.deepcopy(child).double().eval(), few)
        own_parent, own_child = _logits(parent, batches, dtype), _logits(child, batches, dtype)
        training = _training_mode(parent, child, batches, labels, others)
    return Proof(
        exactness=_compare(reference, exact),
        delivered=_compare(reference, delivered),
        own_dtype=_compare(own_parent, own_child),
        noise_floor=_compare(reference, own_parent[: len(few)]).relative,
        training=training,
        tolerance=_tolerance(dtype),
    )


def prove_layers(pairs: Sequence[tuple[nn.Module, nn.Module, nn.Module]]) -> Proof:
    """Compares each replaced layer with its replacement alone, on random normal inputs.

    Args:
        pairs: the layer, its replacement in float64, and its replacement as delivered.

    Returns:
        A proof of the worst layer; ``training`` is None.
    """
    exact, delivered, own, floors = [], [], [], []
    with without_tf32(), torch.no_grad():
        for old, new, cast in pairs:
            weight = getattr(old, "weight", next(new.parameters()))
            reach = max(new.shape.graph.kernel) if isinstance(new, GraphConv2d) else 3
            groups = getattr(old, "groups", 1)
            dilation = max(getattr(old, "dilation", (1, 1)))
            channels = weight.shape[1] * groups if hasattr(old, "weight") else getattr(new, "in_channels", 1)
            generator = torch.Generator().manual_seed(0)
            side = max(8, 2 * dilation * reach)
            x = torch.randn(2, channels, side, side, generator=generator, dtype=torch.float64).to(weight.device)
            with evaluation_mode(old), evaluation_mode(new), evaluation_mode(cast):
                reference = copy.deepcopy(old).double()(x).flatten(1)
                exact.append(_compare(reference, _unpadded(new)(x).flatten(1)))
                delivered.append(_compare(reference, copy.deepcopy(cast).double()(x).flatten(1)))
                dtype = next(cast.parameters()).dtype
                ours = old(x.to(dtype)).double().flatten(1)
                own.append(_compare(ours, cast(x.to(dtype)).double().flatten(1)))
                floors.append(_compare(reference, ours).relative)
    tolerance = _tolerance(next(pairs[0][2].parameters()).dtype)
    worst, *others = (max(figures, key=lambda c: c.relative) for figures in (exact, delivered, own))
    return Proof(worst, others[0], others[1], max(floors), None, tolerance, alone=worst)


def _tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"exactness": EXACT_TOLERANCE, "delivered": DELIVERED_TOLERANCE[dtype], "training": TRAINING_TOLERANCE}


def _unpadded(module: nn.Module) -> nn.Module:
    """The same filters with ``padding=exact``: without the differences of ``same`` padding on the border."""
    if not isinstance(module, GraphConv2d) or module.shape.padding == "exact":
        return module
    exact = GraphConv2d(replace(module.shape, padding="exact")).to(next(module.parameters()))
    exact.load_state_dict(module.state_dict())
    return exact.eval()


def _logits(network: nn.Module, batches: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    with evaluation_mode(network):
        return torch.cat([logits(network, x.to(dtype)).double() for x in batches])


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """The output of ``network`` for ``x``, one row per image; several outputs are concatenated.

    Raises:
        TypeError: no output has a row for every image.
    """
    y = network(x)
    if isinstance(y, Tensor) and y.dim() == 2:
        return y
    rows = [t.flatten(1) if t.dim() > 1 else t[:, None] for t in tree_leaves(y) if isinstance(t, Tensor) and t.dim()]
    rows = [t for t in rows if len(t) == len(x) and t.is_floating_point()]
    if not rows:
        raise TypeError(f"the network gives {type(y).__name__}, without a tensor that has a row for every image")
    return torch.cat(rows, 1)


def _compare(a: Tensor, b: Tensor) -> Comparison:
    difference, largest = float((a - b).abs().max()), float(a.abs().max())
    # A network that computes infinities or NaN is not preserved.
    relative = difference / max(largest, 1e-300) if torch.isfinite(b).all() else float("inf")
    return Comparison(len(a), difference, largest, relative, int((a.argmax(1) != b.argmax(1)).sum()))


def _training_mode(
    parent: nn.Module,
    child: nn.Module,
    batches: Sequence[Tensor],
    labels: Sequence[Tensor] | None,
    others: Sequence[Tensor],
) -> TrainingMode | None:
    size = min(len(x) for x in batches)
    # Float32 is enough: the differences here are a thousand times its rounding error.
    parent, child = (copy.deepcopy(network).float() for network in (parent, child))
    batches, others = [x.float() for x in batches], [x.float() for x in others]
    pool = [*batches, *others]
    if size < 2 or len(pool) < 2:
        return None
    half = size // 2
    differences, noises, sizes, parent_losses, child_losses = [], [], [], [], []
    with batch_statistics(parent), batch_statistics(child):
        for i, x in enumerate(batches):
            # Both batches have the same size; only the other half changes.
            mixed = torch.cat([x[:half], pool[(i + 1) % len(pool)][-half:]])
            noises.append((logits(parent, mixed)[:half] - logits(parent, x[: 2 * half])[:half]).square().mean())
        for i in range(0, len(batches), TRAINING_BATCHES):
            group = slice(i, i + TRAINING_BATCHES)
            together = torch.cat(batches[group])
            ours, theirs = logits(parent, together), logits(child, together)
            sizes.append(ours.square().mean())
            differences.append((theirs - ours).square().mean())
            if labels is not None and ours.dim() == 2 and ours.shape[1] > int(max(y.max() for y in labels)):
                answers = torch.cat(list(labels[group]))
                parent_losses.append(F.cross_entropy(ours, answers))
                child_losses.append(F.cross_entropy(theirs, answers))
    difference, noise, logit = (float(torch.stack(each).mean().sqrt()) for each in (differences, noises, sizes))
    silent = noise <= NO_NOISE * logit
    few = len(batches) < TRAINING_BATCHES or size < TRAINING_BATCH_SIZE
    unjudged = f"too few images to judge: {TRAINING_BATCHES} batches of {TRAINING_BATCH_SIZE} are needed" if few else ""
    unjudged = "the parent has no noise of its own to judge it by" if silent else unjudged
    return TrainingMode(
        batches=len(batches),
        batch_size=size,
        difference=difference,
        noise=noise,
        ratio=0.0 if silent else difference / noise,
        judged=not unjudged,
        parent_loss=float(torch.stack(parent_losses).mean()) if parent_losses else None,
        child_loss=float(torch.stack(child_losses).mean()) if child_losses else None,
        unjudged=unjudged,
        size=logit,
    )
