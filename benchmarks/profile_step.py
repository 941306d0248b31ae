"""Time of each part of a training step, and the machine's limits.

    python benchmarks/profile_step.py [--network resnet20] [--device auto] [--threads 2] [--steps 10]
                                      [--output results/throughput]

Profiles the steps of a phase on random images of CIFAR's shape at batch 128, with crop and mirror. First measures
the ceilings: a matrix product of 2048 x 2048 in each precision, and copies of 128 MB and of 4 MB, a large
activation's size, read and written. FLOP (two for a multiply-accumulate) are PyTorch's count; bytes count each
argument of an operator once. "At the ceilings" is the larger of the times for FLOP and for bytes, the bytes at the
speed of the large copy. It is not a bound, since caches help and an operator may read twice. Parts that
``torch.compile`` fuses have no count of their own. Prints the tables and writes ``profile.md``
and ``profile.json`` to the output folder.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from solvers import markdown
from throughput import Variant, architecture, machine
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from morphnet.data import TrainBatches
from morphnet.data.images import ImageData, Split
from morphnet.data.memory import Augmentation
from morphnet.nn.resnet import ResNet
from morphnet.train import keep_freed_memory
from morphnet.train.optimizer import make_optimizer
from morphnet.train.step import Learner, TrainStep

#: Parts of a step with patterns of their operators' names; the first match counts.
PARTS = {
    "convolutions, backward": r"convolution_backward",
    "convolutions, forward": r"convolution|conv2d",
    "batch normalisation, backward": r"batch_norm_backward",
    "batch normalisation, forward": r"batch_norm",
    "activations": r"relu|threshold|clamp_min|PReLU",
    "fused by torch.compile": r"Compiled|graph_",
    "additions (shortcuts, gradients)": r"\badd_?\b",
    "casts and copies": r"copy",
}
REST = "all else"


def part_of(operator: str) -> str:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, operator)), REST)


class MarkedBatches(TrainBatches):
    def batch(self, order: Tensor, offsets: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        with record_function("augmentation"):
            return super().batch(order, offsets, mirrored)


class Counter(TorchDispatchMode):
    """Bytes read and written, and FLOP, by part of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: defaultdict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        written = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        places = {t.data_ptr() for t in read if t.numel()}
        in_place = func._schema.is_mutable
        is_view = not in_place and written and all(t.data_ptr() in places for t in written)
        if not is_view and "empty" not in str(func):
            self.bytes[part_of(str(func))] += sum(t.numel() * t.element_size() for t in [*read, *written])
        return out


def stepper(variant: Variant, device: str) -> tuple[Callable[[], None], TrainStep]:
    engine = variant.engine(device)
    network = ResNet(architecture(variant.network), torch.Generator().manual_seed(0))
    engine = engine.place(network.train())
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1024, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(10, (1024,), generator=generator)).to(engine.device)
    data = ImageData("noise", split, split, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    batches = MarkedBatches(data, 128, Augmentation(4, True), (0, 0))
    model = engine.compiled(network) if engine.compile == "true" else network
    step = TrainStep(Learner(model, make_optimizer(network, 0.01), engine), batches)  # type: ignore[arg-type]
    step.load(0)

    def run() -> None:
        step.row.zero_()
        step.run(0, 0.01)

    return run, step


def seconds(function: Callable[[], object], device: str, rounds: int) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(rounds + 3):
        wait()
        started = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def ceilings(device: str) -> dict[str, float]:
    """GFLOP/s of matrix products and GB/s of a copy."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, 2048, device=device).to(dtype)
        found[str(dtype).removeprefix("torch.")] = 2 * 2048**3 / seconds(lambda a=a: a @ a, device, 15) / 1e9
    for megabytes in (128, 4):
        source = torch.zeros(megabytes << 20, dtype=torch.uint8, device=device)
        target = torch.zeros_like(source)
        spent = seconds(lambda source=source, target=target: target.copy_(source), device, 15)
        found[f"a copy of {megabytes} MB"] = 2 * source.nbytes / spent / 1e9
    return found


def times_of(run: Callable[[], None], device: str, steps: int) -> dict[str, float]:
    """Milliseconds per step of each part, measured by the profiler."""
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        for _ in range(steps):
            run()
        if on_gpu:
            torch.cuda.synchronize()
    parts: defaultdict[str, float] = defaultdict(float)
    for event in found.events():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        ranges, above = set(), event
        while above is not None:
            ranges.add(above.name.split(".")[0])
            above = above.cpu_parent
        if "augmentation" in ranges:
            part = "augmentation"
        elif "Optimizer" in ranges:
            part = "optimizer"
        else:
            part = part_of(event.name)
        parts[part] += spent / 1e3 / steps
    return parts


def counts_of(run: Callable[[], None]) -> tuple[dict[str, int], dict[str, int]]:
    """(bytes, FLOP) of one eager step by part."""
    with Counter() as counter:
        run()
    with FlopCounterMode(display=False) as flops:
        run()
    by_part: defaultdict[str, int] = defaultdict(int)
    for operator, count in flops.get_flop_counts()["Global"].items():
        by_part[part_of(str(operator))] += count
    return counter.bytes, by_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("results/throughput"))
    arguments = parser.parse_args()
    device, steps = arguments.device, arguments.steps
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    about = machine(device, arguments.threads)
    peak = ceilings(device)
    text = "Ceilings, measured: " + ", ".join(
        f"{value:,.0f} {'GB/s by' if 'copy' in key else 'GFLOP/s in'} {key}" for key, value in peak.items()
    )
    text, result = text + ".\n", {"about": about, "ceilings": peak, "steps": list[dict[str, Any]]()}
    for precision in ("float32", "bfloat16"):
        moved, flop = counts_of(stepper(Variant(arguments.network, precision, "eager"), device)[0])
        for how in ("eager", "compiled"):
            run, _ = stepper(Variant(arguments.network, precision, how), device)
            whole = 1e3 * seconds(run, device, steps)
            parts = times_of(run, device, steps)
            total = sum(parts.values())
            rows, values = [], {}
            for part, spent in sorted(parts.items(), key=lambda item: -item[1]):
                counted = part.startswith("convolutions") or (how == "eager" and part != REST)
                gflop, gb = (counts[part] / 1e9 if counted else 0.0 for counts in (flop, moved))
                arithmetic, memory = 1e3 * gflop / peak[precision], 1e3 * gb / peak["a copy of 128 MB"]
                least, rate = max(arithmetic, memory), gflop / (spent * whole / total / 1e3) if spent else 0.0
                values[part] = {"share": spent / total, "gflop": gflop, "gb": gb, "ms_at_ceilings": least}
                cells = [part, f"{100 * spent / total:.1f}", f"{spent * whole / total:.1f}"]
                cells += [f"{gflop:.1f}" if gflop else "", f"{rate:.0f}" if gflop else ""]
                cells += [f"{1e3 * gb:.0f}" if gb else "", f"{least:.1f}" if least else ""]
                rows.append([*cells, ("FLOP" if arithmetic > memory else "bytes") if least else ""])
            result["steps"].append({"precision": precision, "how": how, "ms": whole, "parts": values})
            header = ["part", "% of the step", "ms", "GFLOP", "GFLOP/s", "MB", "ms at the ceilings", "the larger"]
            title = f"{arguments.network}, {precision}, {how}: {whole:.0f} ms a step, {128e3 / whole:.0f} images/s; "
            title += f"{sum(flop.values()) / 1e9:.1f} GFLOP"
            title += f", {sum(moved.values()) / 1e9:.2f} GB" if how == "eager" else ""
            text += f"\n{title}.\n\n" + markdown(header, rows)
            print(text if len(result["steps"]) == 1 else f"\n{title}.\n\n" + markdown(header, rows), flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "profile.md").write_text(text)
    (arguments.output / "profile.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
