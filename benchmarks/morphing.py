"""Time of morphs, and the cost of the same growth of one block elsewhere.

    python benchmarks/morphing.py [--rounds 5] [--gromo FOLDER] [--output results/solvers]

First measures the morphs that have a target time; medians. Then grows one ResNet-20 block (16 channels, random weights,
random non-negative inputs of CIFAR's shape) by this package's 1c1 shortcut, by identity inserts as in Net2Net, and by
one TINY step of gromo, if ``--gromo`` names its folder (``pip install --target FOLDER gromo``), and compares each with
the original block, in evaluation and in training mode, on inputs that the growth has not seen. Writes ``morphing.json``
and ``morphing.md`` to the output folder."""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from solvers import about, markdown, module, parent_filter
from torch import Tensor, nn

from morphnet.graph import Edge, ModuleGraph
from morphnet.morph import plan_morph
from morphnet.morph.apply import apply_morph
from morphnet.morph.layer import morph_conv
from morphnet.nn.resnet import ResidualBlock, ResNet, cifar_architecture
from morphnet.solvers import solve
from morphnet.spec import parse_spec

CHANNELS, BATCH = 16, 128
#: 576 parameters; 1c1's two filters have 512.
GROMO_NEURONS = 2


@dataclass(frozen=True)
class Times:
    """Median seconds of several runs, of the clock and of the processor; other work disturbs the latter less.

    ``result`` is the value that the last run returned.
    """

    seconds: float
    processor: float
    fastest: float
    slowest: float
    result: Any

    def figures(self) -> dict[str, float]:
        return {key: float(f"{value:.4g}") for key, value in vars(self).items() if key != "result"}


def timed(function: Callable[[], Any], rounds: int) -> Times:
    """Times of ``rounds`` runs after one warm-up run."""
    clocks, processors = [], []
    for _ in range(rounds + 1):
        started, used = time.perf_counter(), sum(os.times()[:4])  # of this process and its children
        result = function()
        clocks.append(time.perf_counter() - started)
        processors.append(sum(os.times()[:4]) - used)
    kept = clocks[1:]
    return Times(statistics.median(kept), statistics.median(processors[1:]), min(kept), max(kept), result)


def difference(before: Tensor, after: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((after - before).abs().max() / before.abs().max())


# --- the morphs that have a target ---


def morph_of_resnet110() -> Callable[[], ResNet]:
    parent = ResNet(cifar_architecture(110, 10)).eval()

    def morph() -> ResNet:
        plan = plan_morph(parent.architecture, parse_spec("1c1"))
        exact = copy.deepcopy(parent).double().eval()
        child = apply_morph(exact, plan, torch.Generator().manual_seed(0)).child
        delivered = ResNet(child.architecture)
        delivered.load_state_dict(child.state_dict())
        return delivered

    return morph


def targets(rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def row(what: str, target: float, times: Times, error: str) -> None:
        rows.append({"what": what, "target": target, **times.figures(), "error": error})
        print(rows[-1], flush=True)

    times = timed(morph_of_resnet110(), rounds)
    row("ResNet-110 to 1c1, 51 blocks: plan, solve, apply, copy", 1, times, "")
    weight = parent_filter(64, torch.Generator().manual_seed(0))
    times = timed(lambda: solve(module("d"), weight), rounds)
    row("`auto`, module (D), 3x3, 64 channels, parent 3x3", 2, times, f"residual {times.result.residual:.1e}")
    conv = nn.Conv2d(512, 512, 3, padding=1)
    times = timed(lambda: morph_conv(conv, module("d")), min(rounds, 3))
    x = torch.randn(1, 512, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        error = difference(copy.deepcopy(conv).double()(x), times.result.double()(x))
    row("512-channel 3x3 convolution to module (D), 3x3", 10, times, f"float32 filters, in float64: {error:.1e}")
    command = [sys.executable, "-m", "morphnet", "--help"]
    times = timed(lambda: subprocess.run(command, capture_output=True, check=True), rounds)
    row("`morphnet --help`", 0.5, times, "")
    return rows


# --- the growth of one block ---


class Grown(nn.Module):
    """``block`` followed by an inserted part."""

    def __init__(self, block: nn.Module, *inserted: nn.Module) -> None:
        super().__init__()
        self.block, self.inserted = block, nn.Sequential(*inserted)

    def forward(self, x: Tensor) -> Tensor:
        return self.inserted(self.block(x))


def resnet20_block(inputs: Tensor) -> ResidualBlock:
    """layer1.1 of a fresh ResNet-20 with the running statistics of the inputs."""
    network = ResNet(cifar_architecture(20, 10), torch.Generator().manual_seed(0))
    block = dict(network.named_blocks())["layer1.1"].train()
    with torch.no_grad():
        for _ in range(50):
            block(inputs)
    return block.eval()


def grow_by_1c1(block: ResidualBlock, inputs: Tensor) -> tuple[nn.Module, float]:
    graph = ModuleGraph([Edge("s", "a"), Edge("a", "t"), Edge("s", "t", identity=True, scale=0.5)])
    identity = dirac(1).eval()
    grown = copy.deepcopy(block)
    grown.shortcut = morph_conv(identity, graph, norm="batch", calibration=[inputs])
    return grown, zero_share(grown.shortcut)


def insert_branch(block: ResidualBlock, inputs: Tensor) -> tuple[nn.Module, float]:
    """The block with the same branch beside half of the shortcut, whose two filters are identities."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(dirac(1), nn.BatchNorm2d(CHANNELS), dirac(1, 0.5), nn.BatchNorm2d(CHANNELS))

        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x + self.branch(x)

    half = Half().eval()
    set_norms(half.branch, inputs)
    grown = copy.deepcopy(block)
    grown.shortcut = half
    return grown, zero_share(half)


def deepen(measured: bool) -> Callable[[ResidualBlock, Tensor], tuple[nn.Module, float]]:
    """Net2DeeperNet: the block followed by conv - BN - ReLU, an identity for non-negative inputs."""

    def grow(block: ResidualBlock, inputs: Tensor) -> tuple[nn.Module, float]:
        conv, norm = dirac(3), nn.BatchNorm2d(CHANNELS)
        grown = Grown(copy.deepcopy(block), conv, norm, nn.ReLU()).eval()
        with torch.no_grad():
            if measured:
                set_norms(nn.Sequential(conv, norm), grown.block(inputs))
            else:
                norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        return grown, zero_share(conv)

    return grow


def dirac(kernel: int, scale: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=kernel // 2, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight).mul_(scale)
    return conv


@torch.no_grad()
def set_norms(layers: nn.Sequential, x: Tensor) -> None:
    """Makes every batch normalisation the identity by the statistics of its input (Eq. 9)."""
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            layer.running_mean, layer.running_var = mean, variance
            layer.weight.copy_((variance + layer.eps).sqrt())
            layer.bias.copy_(mean)
        layer.eval()
        x = layer(x)


def zero_share(part: nn.Module) -> float:
    filters = [p for p in part.parameters() if p.dim() == 4]
    return sum(int((f == 0).sum()) for f in filters) / sum(f.numel() for f in filters)


def grow_by_gromo(block: ResidualBlock, inputs: Tensor, labels: Tensor) -> tuple[Grown, Grown]:
    """The block in gromo, before and after one TINY step.

    The loss is the cross-entropy of a random linear classifier on the block's outputs; adds the two best channels.
    """
    from gromo.containers.growing_block import Conv2dGrowingBlock
    from gromo.modules.growing_normalisation import GrowingBatchNorm2d

    growing = Conv2dGrowingBlock(
        CHANNELS,
        CHANNELS,
        kernel_size=3,
        hidden_channels=CHANNELS,
        pre_activation=nn.Identity(),
        mid_activation=nn.Sequential(GrowingBatchNorm2d(CHANNELS), nn.ReLU()),
        pre_addition_function=nn.BatchNorm2d(CHANNELS),
        kwargs_layer={"padding": 1, "use_bias": False},
    )
    growing.first_layer.layer.load_state_dict(block.conv1.state_dict())
    growing.first_layer.post_layer_function[0].load_state_dict(block.bn1.state_dict())
    growing.second_layer.layer.load_state_dict(block.conv2.state_dict())
    growing.second_layer.post_layer_function.load_state_dict(block.bn2.state_dict())
    before = Grown(copy.deepcopy(growing), nn.ReLU()).eval()
    after = Grown(growing, nn.ReLU()).eval()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))
    growing.init_computation()
    nn.functional.cross_entropy(head(after(inputs)), labels).backward()
    growing.update_computation()
    growing.compute_optimal_updates(maximum_added_neurons=GROMO_NEURONS, statistical_threshold=0.0, compute_delta=False)
    growing.set_scaling_factor(1.0)
    growing.apply_change()
    growing.reset_computation()
    growing.delete_update()
    added = growing.hidden_neurons - CHANNELS
    if added != GROMO_NEURONS:
        raise RuntimeError(f"gromo added {added} channels instead of {GROMO_NEURONS}")
    return before, after


def compare(before: nn.Module, after: nn.Module, inputs: Tensor) -> dict[str, float]:
    """Difference of both blocks in evaluation and in training mode, in float64, and the number of added parameters."""
    found: dict[str, float] = {}
    with torch.no_grad():
        for mode in ("evaluation", "training"):
            outputs = [copy.deepcopy(n).double().train(mode == "training")(inputs.double()) for n in (before, after)]
            found[mode] = difference(*outputs)
    found["parameters"] = sum(p.numel() for p in after.parameters()) - sum(p.numel() for p in before.parameters())
    return found


def growth(rounds: int, gromo: Path | None) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    seen, unseen = (torch.randn(BATCH, CHANNELS, 32, 32, generator=generator).relu() for _ in range(2))
    labels = torch.randint(10, (BATCH,), generator=generator)
    block = resnet20_block(seen)
    ways: dict[str, Callable[[ResidualBlock, Tensor], tuple[nn.Module, float]]] = {
        "morphnet, 1c1 shortcut": grow_by_1c1,
        "the same branch of identities (Net2Net), BN measured": insert_branch,
        "Net2DeeperNet, conv3x3 - BN - ReLU behind the block, BN measured": deepen(True),
        "the same, BN fresh": deepen(False),
    }
    rows: list[dict[str, Any]] = []
    for name, grow in ways.items():
        times = timed(partial(grow, block, seen), rounds)
        grown, zeros = times.result
        rows.append({"what": name, **times.figures(), "zeros": zeros, **compare(block, grown, unseen), "note": ""})
        print(rows[-1], flush=True)
    name = f"gromo, TINY, {GROMO_NEURONS} more channels inside the block"
    if gromo is None:
        rows.append({"what": name, "note": "not installed here: --gromo was not given"})
        return rows
    sys.path.append(str(gromo))
    times = timed(partial(grow_by_gromo, block, seen, labels), rounds)
    before, after = times.result
    note = "version " + importlib.metadata.version("gromo")
    layers = (after.block.first_layer.layer.weight[CHANNELS:], after.block.second_layer.layer.weight[:, CHANNELS:])
    zeros = sum(int((new == 0).sum()) for new in layers) / sum(new.numel() for new in layers)
    row = {"what": name, **times.figures(), "zeros": zeros, **compare(before, after, unseen), "note": note}
    same = compare(block, before, unseen)["evaluation"]
    if same > 1e-6:
        raise RuntimeError(f"gromo's block is not ours before the growth: {same}")
    print(row, flush=True)
    return [*rows, row]


def tables(result: dict[str, Any]) -> str:
    first, second = [], []
    for row in result["targets"]:
        spread = f"{row['fastest']:.3g} - {row['slowest']:.3g}"
        times = [f"{row['target']:g}", f"{row['seconds']:.3g}", spread, f"{row['processor']:.3g}"]
        first.append([row["what"], *times, row["error"]])
    for row in result["growth"]:
        if "seconds" not in row:
            second.append([row["what"], *[""] * 6, row["note"]])
            continue
        cells = [
            f"{row['seconds']:.3g}",
            f"{row['processor']:.3g}",
            f"{row['evaluation']:.1e}",
            f"{row['training']:.1e}",
        ]
        second.append([row["what"], *cells, f"{row['parameters']:,}", f"{100 * row['zeros']:.0f}", row["note"]])
    times = ["target (s)", "measured (s)", "fastest - slowest", "processor (s)"]
    changes = ["change, evaluation", "change, training", "parameters added", "zeros in new filters %"]
    return (
        markdown(["what", *times, "error"], first)
        + "\n"
        + markdown(["grown by", "measured (s)", "processor (s)", *changes, "note"], second)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--gromo", type=Path, help="folder that gromo is installed in")
    parser.add_argument("--output", type=Path, default=Path("results/solvers"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    result = {
        "about": about(arguments.threads),
        "targets": targets(arguments.rounds),
        "growth": growth(arguments.rounds, arguments.gromo),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "morphing.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.output / "morphing.md").write_text(tables(result))
    print(tables(result))


if __name__ == "__main__":
    main()
