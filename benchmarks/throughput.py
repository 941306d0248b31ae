"""Images per second of the whole training loop, in turns with akamaster/pytorch_resnet_cifar10's own trainer.

    python benchmarks/throughput.py PEER_PATH --data cifar10.npz [--rounds 5] [--steps 30] [--warm-up 8]
                                    [--device auto] [--threads 2] [--variants ...] [--output results/throughput]

PEER_PATH is a checkout of that repository (trainer.py, resnet.py). Its ``main`` runs unchanged, with its parser and
defaults (4 workers, pinned memory), transforms, network, loss, optimizer and meters, except that: a class that reads
the same images from the .npz replaces torchvision's CIFAR10; validation and saving are left out; the loader ends after
the wanted number of batches; without a GPU ``.cuda()`` does nothing. Our loop trains a network of the same kind
(ResNet-20 with padding shortcuts) with crop, mirror, batch 128 and the same number of steps, and is compared with its
bare step (forward, backward, optimizer) on one fixed batch. Every variant of every round runs in its own process, one
after the other. Warm-up steps, evaluation and the start of an epoch (our order of the images, the peer's start of
workers) are not counted.

Writes ``throughput.json`` (every run) and ``throughput.md`` (two Markdown tables) to the output folder; ``--redraw``
makes the second from the first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from solvers import about, markdown
from torch import nn

from morphnet import count_macs
from morphnet.data import TrainBatches
from morphnet.data.images import ImageData, Split, with_normalisation
from morphnet.data.memory import Augmentation, MemoryFeed
from morphnet.data.sources import load_arrays
from morphnet.morph import plan_morph
from morphnet.nn.resnet import Architecture, ResNet, cifar_architecture
from morphnet.spec import parse_spec
from morphnet.train import Engine, choose_engine, keep_freed_memory
from morphnet.train.loop import run_phase
from morphnet.train.optimizer import make_optimizer
from morphnet.train.phase import Outputs, PhaseSettings, Place
from morphnet.train.schedule import Schedule
from morphnet.train.step import Learner

BATCH = 128
PEER = "peer"


@dataclass(frozen=True)
class Variant:
    """A network and its way of training; its name is ``network precision how``."""

    network: str
    precision: str
    how: str  # eager, compiled, graph, graph+compiled

    @property
    def name(self) -> str:
        return f"{self.network} {self.precision} {self.how}"

    def engine(self, device: str) -> Engine:
        compiled, graph = (str(word in self.how.split("+")).lower() for word in ("compiled", "graph"))
        return choose_engine(device, self.precision, compiled, graph)


def variants(device: str) -> list[Variant]:
    """The variants for ``device``: the parent in each way, its children, and on a GPU deep networks for memory."""
    precisions = ("float32", "bfloat16")
    if device == "cpu":
        ways, nets = ("eager", "compiled"), ("resnet20_prelu", "morph20_1c1")
        return [Variant("resnet20", p, w) for p in precisions for w in ways] + [
            Variant(n, "bfloat16", w) for n in nets for w in ways
        ]
    ways = ("eager", "graph", "graph+compiled")
    nets = ("resnet20_prelu", "morph20_1c1", "resnet56", "resnet110")
    return [Variant("resnet20", p, w) for p in precisions for w in ways] + [
        Variant(n, "bfloat16", w) for n in nets for w in ways[1:]
    ]


def architecture(network: str) -> Architecture:
    """ResNet-20, -56 and -110 with padding shortcuts, as the peer's; the child and the PReLU parent of ResNet-20."""
    if network == "resnet20_prelu":
        return cifar_architecture(20, 10, shortcut="padding", activation="prelu")
    if network == "morph20_1c1":
        return plan_morph(architecture("resnet20"), parse_spec("1c1")).child
    return cifar_architecture(int(network.removeprefix("resnet")), 10, shortcut="padding")


# --- one run, in a process of its own ---


def run_cell(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    if arguments.cell == PEER:
        with contextlib.redirect_stdout(io.StringIO()):
            found = {"images_per_second": run_peer(arguments)}
    else:
        found = run_ours(Variant(*arguments.cell.split()), arguments)
    if torch.cuda.is_available():
        found["memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    print(json.dumps(found))


def run_peer(arguments: argparse.Namespace) -> float:
    """Images per second of the peer's ``train``, called by its ``main``."""
    sys.path.insert(0, str(arguments.peer))
    import trainer  # type: ignore[import-not-found]

    if arguments.device == "cpu":
        torch.Tensor.cuda = nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    its_train, times = trainer.train, []

    class First:
        """The first batches of a loader; records the time of each request."""

        def __init__(self, loader: Any) -> None:
            self.loader = loader

        def __len__(self) -> int:
            return len(self.loader)

        def __iter__(self) -> Iterator[Any]:
            for _, batch in zip(range(arguments.warm_up + arguments.steps), self.loader, strict=False):
                yield batch
                times.append(time.perf_counter())

    trainer.train = lambda loader, *rest: its_train(First(loader), *rest)
    trainer.validate = lambda *_: 0.0
    trainer.save_checkpoint = lambda *_, **__: None
    trainer.datasets.CIFAR10 = images_of(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["trainer.py", "-a", "resnet20", "--epochs", "1", "--save-dir", folder]
        trainer.main()
    assert len(times) == arguments.warm_up + arguments.steps
    return arguments.steps * BATCH / (times[-1] - times[arguments.warm_up - 1])


def images_of(path: Path) -> type:
    """A class with the arguments and items of torchvision's CIFAR10."""
    from PIL import Image

    class Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, root: str, train: bool, transform: Callable[[Any], Any], download: bool = False) -> None:
            part = "train" if train else "test"
            with np.load(path) as file:
                self.data = file[f"{part}_images"]
                self.targets = file[f"{part}_labels"].tolist()
            self.transform = transform

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    return Images


class ClockedFeed(MemoryFeed):
    """Notes when each step of :func:`run_phase` begins, and waits for the device before step ``waits_at``."""

    waits_at, times = 0, list[float]()

    def advance(self) -> None:
        if len(self.times) == self.waits_at and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        super().advance()


class ClockedBatches(TrainBatches):
    """Training batches that come from a :class:`ClockedFeed`."""

    def feed(self, index: int = 0, count: int = 1) -> ClockedFeed:
        return ClockedFeed(self, index, count)


def run_ours(variant: Variant, arguments: argparse.Namespace) -> dict[str, float]:
    """Images per second of the loop and of its bare step, half of whose steps run before and half after."""
    keep_freed_memory()
    engine = variant.engine(arguments.device)
    data = cifar(arguments.data).to(engine.device)
    network = ResNet(architecture(variant.network), torch.Generator().manual_seed(0))
    batches = ClockedBatches(data, BATCH, Augmentation(4, True), (0, 0))
    warm_up, steps = arguments.warm_up, arguments.steps
    ClockedFeed.waits_at = warm_up
    step = bare_step(network, batches, engine)
    halves = [clocked(step, steps // 2, warm_up, engine)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        result = run_phase(
            network,
            batches,
            Schedule(warm_up + steps, 0.1, milestones=()),
            PhaseSettings(checkpoint_seconds=1e9),
            Place(engine),
            Outputs(variant.name, Path(folder)),
        )
    times = ClockedFeed.times
    seconds = result.seconds - (times[warm_up] - times[0])
    halves.append(clocked(step, steps - steps // 2, 2, engine))
    return {"images_per_second": steps * BATCH / seconds, "bare": steps * BATCH / sum(halves)}


def cifar(path: Path) -> ImageData:
    """CIFAR-10 from an ``.npz``, with few test images, since evaluation is not measured."""
    data = with_normalisation(load_arrays("cifar10", path), "imagenet")
    return replace(data, test=Split(data.test.images[:100], data.test.labels[:100]))


def bare_step(network: ResNet, batches: TrainBatches, engine: Engine) -> Callable[[], object]:
    """Forward, backward and optimizer on the first batch, repeatedly; captured if the loop is."""
    engine = engine.place(network.train())
    model = engine.compiled(network) if engine.compile == "true" else network
    learner = Learner(model, make_optimizer(network, 0.1), engine)
    images, labels = next(batches.epoch(0))

    def step() -> object:
        return learner.update(images, labels)

    return captured(step) if engine.captures() else step


def captured(step: Callable[[], object]) -> Callable[[], object]:
    """``step`` as a CUDA graph; keeps the tensors of ``step`` alive."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: Callable[[], object] = step) -> None:
        graph.replay()

    return replay


def clocked(step: Callable[[], object], steps: int, warm_up: int, engine: Engine) -> float:
    """Seconds of ``steps`` steps after warm-up."""
    wait = torch.cuda.synchronize if engine.device.type == "cuda" else lambda: None
    for _ in range(warm_up):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - started


# --- all runs ---


def measure(cell: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, str(arguments.peer), "--cell", cell]
    for option in ("data", "device", "threads", "steps", "warm_up"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{cell} failed:\n{done.stderr}")
    return {"variant": cell, **json.loads(done.stdout.splitlines()[-1])}


def spread(values: list[float], form: str = ".0f") -> str:
    if len(values) < 2:
        return ""
    return f"{min(values):{form}} - {max(values):{form}}"


def tables(result: dict[str, Any]) -> str:
    """One row per variant and one per target; ratios are medians over rounds of the ratio within a round."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        runs.setdefault(run["variant"], []).append(run)
    speeds = {name: [run["images_per_second"] for run in found] for name, found in runs.items()}
    macs = {name.split()[0]: count_macs(ResNet(architecture(name.split()[0]))) for name in speeds if name != PEER}

    def ratios(name: str, other: str, scale: float = 1.0) -> list[float]:
        return [scale * a / b for a, b in zip(speeds[name], speeds[other], strict=False)]

    def over_bare(name: str) -> list[float]:
        return [run["images_per_second"] / run["bare"] for run in runs[name]]

    parents = [name for name in speeds if name.startswith("resnet20 ")]
    best = max(parents, key=lambda name: statistics.median(speeds[name]), default=None)
    rows = []
    for name, found in speeds.items():
        cells = [f"{statistics.median(found):.0f}", spread(found)]
        cells.append(f"{statistics.median(ratios(name, PEER)):.2f}" if PEER in speeds else "")
        if name == PEER:
            cells += ["", ""]
        else:
            cells.append(f"{100 * statistics.median(over_bare(name)):.1f}")
            scale = macs[name.split()[0]] / macs["resnet20"]
            cells.append("" if best is None else f"{statistics.median(ratios(name, best, scale)):.2f}")
        memory = [run["memory_mb"] for run in runs[name] if "memory_mb" in run]
        cells.append(f"{statistics.median(memory):.0f}" if memory else "")
        rows.append([*(["akamaster's trainer", "float32", "eager"] if name == PEER else name.split()), *cells])
    header = ["network", "precision", "how", "images/s", "lowest - highest", "over the peer", "% of its bare step"]
    first = markdown([*header, "images/s x FLOP, over the parent's best", "GPU memory (MB)"], rows)

    def fastest(*starts: str) -> str | None:
        named = [name for name in speeds if name.startswith(starts)]
        return max(named, key=lambda name: statistics.median(speeds[name]), default=None)

    on_gpu = result["device"] == "cuda"
    child, graph = fastest("morph20_1c1"), fastest("resnet20 float32 graph", "resnet20 bfloat16 graph")
    wanted: list[tuple[str, str | None, Callable[[str], list[float]], float]] = [
        (f"loop, {p}, over akamaster's trainer", fastest(f"resnet20 {p}"), lambda name: ratios(name, PEER), target)
        for p, target in (("float32", 1.25), ("bfloat16", 2.2))
        if not on_gpu
    ]
    wanted += [(f"{name.removeprefix('resnet20 ')} loop over its bare step", name, over_bare, 0.95) for name in parents]
    if child and best:
        scale = macs["morph20_1c1"] / macs["resnet20"]
        wanted.append(("morph20_1c1, images/s x FLOP, over its parent", child, lambda n: ratios(n, best, scale), 0.8))
    wanted.append(("loop on a GPU as a graph, over that trainer", graph, lambda name: ratios(name, PEER), 5))
    rows = []
    for what, name, found_by, target in wanted:
        values = found_by(name) if name and (PEER in speeds or "trainer" not in what) else []
        median = f"{statistics.median(values):.2f}" if values else ""
        rows.append([what, f"{target:g}", median, spread(values, ".2f"), name if values and name else ""])
    return first + "\n" + markdown(["what", "target", "measured", "lowest - highest", "with"], rows)


def write(result: dict[str, Any], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    head = json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1)
    lines = ",\n  ".join(json.dumps(run) for run in result["runs"])
    (output / "throughput.json").write_text(f'{head[:-2]},\n "runs": [\n  {lines}\n ]\n}}\n')
    (output / "throughput.md").write_text(tables(result))


def machine(device: str, threads: int) -> dict[str, str]:
    """As in ``solvers.py``, with the GPU and the relevant libraries."""
    found = about(threads)
    if device == "cuda":
        found["hardware"] = found["hardware"].replace("no GPU", torch.cuda.get_device_name())
    import torchvision

    found["versions"] = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision "
    found["versions"] += torchvision.__version__
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, help="a checkout of akamaster/pytorch_resnet_cifar10")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10.npz"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--variants", nargs="+", help='such as peer "resnet20 bfloat16 compiled"; all by default')
    parser.add_argument("--output", type=Path, default=Path("results/throughput"))
    parser.add_argument("--redraw", action="store_true", help="the tables from throughput.json")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.warm_up < 1 or arguments.steps < 2 or arguments.warm_up + arguments.steps > 390:
        parser.error("at least 1 step of warm-up and 2 that count are needed, and no more than the 390 of an epoch")
    if arguments.cell:
        run_cell(arguments)
        return
    if arguments.redraw:
        result = json.loads((arguments.output / "throughput.json").read_text())
    else:
        result = {
            "about": machine(arguments.device, arguments.threads),
            "device": arguments.device,
            "runs": list[dict[str, Any]](),
        }
        cells = arguments.variants or [PEER, *(variant.name for variant in variants(arguments.device))]
        for i in range(arguments.rounds):
            # Reverses every second round, so that a machine that slows down favours no variant.
            for cell in cells[:: -1 if i % 2 else 1]:
                run = {"round": i, **measure(cell, arguments)}
                result["runs"].append(run)
                print({key: round(v, 1) if isinstance(v, float) else v for key, v in run.items()}, flush=True)
            write(result, arguments.output)
    write(result, arguments.output)
    print(tables(result))


if __name__ == "__main__":
    main()
