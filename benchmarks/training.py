"""Images per second of whole training steps on this machine, by network and by how the arithmetic is done.

    python benchmarks/training.py [--threads 2] [--rounds 5]

ResNet-20 with ReLU, the same with PReLU, and morph20_1c1, CIFAR-10's shapes, batch 128, one fixed batch; eager and
through torch.compile, with this package's PReLU and with PyTorch's. Variants take turns in every round; medians. The
last column is images/s times FLOP over that of the ReLU parent at its best setting: 1 is the speed its FLOP justify.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F

import morphnet.nn.activation as activation
from morphnet import count_macs
from morphnet.morph import plan_morph
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.spec import parse_spec
from morphnet.train import choose_engine, keep_freed_memory
from morphnet.train.engine import quiet_compilation
from morphnet.train.step import make_optimizer, train_step

STEPS = 10


@contextlib.contextmanager
def pytorch_prelu() -> Iterator[None]:
    with mock.patch.object(activation, "prelu", lambda x, a: F.prelu(x, a.to(x.dtype))):
        yield


def stepper(network: ResNet, engine_settings: dict[str, str], compiled: bool) -> Callable[[], float]:
    """A function that runs ``STEPS`` steps and returns images per second."""
    engine = choose_engine(**engine_settings)
    engine.place(network)
    network.train()
    model = torch.compile(network) if compiled else network
    optimizer = make_optimizer(network, 0.1, 0.9, 1e-4, False)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))

    def run() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            train_step(model, images, labels, optimizer, engine)  # type: ignore[arg-type]
        return STEPS * 128 / (time.perf_counter() - started)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    quiet_compilation()
    relu = cifar_architecture(20, 10)
    networks = {
        "ResNet-20": relu,
        "ResNet-20, PReLU": cifar_architecture(20, 10, activation="prelu"),
        "morph20_1c1": plan_morph(relu, parse_spec("1c1")).child,
    }
    settings = {"precision": arguments.precision}
    variants: list[tuple[str, str, int, Callable[[], float], bool]] = []
    for name, architecture in networks.items():
        macs = count_macs(ResNet(architecture))
        variants.append((name, "eager", macs, stepper(ResNet(architecture), settings, False), False))
        if architecture.activation == "prelu":
            variants.append(
                (name, "eager, PyTorch's PReLU", macs, stepper(ResNet(architecture), settings, False), True)
            )
        variants.append((name, "compiled", macs, stepper(ResNet(architecture), settings, True), False))
    speeds: list[list[float]] = [[] for _ in variants]
    for i in range(arguments.rounds + 1):
        for (*_, run, native), found in zip(variants, speeds, strict=True):
            with pytorch_prelu() if native else contextlib.nullcontext():
                speed = run()
            if i:  # the first round warms up and compiles
                found.append(speed)
    medians = [statistics.median(found) for found in speeds]
    best = max(m for m, v in zip(medians, variants, strict=True) if v[0] == "ResNet-20")
    base = best * variants[0][2]
    precision = str(choose_engine(precision=arguments.precision).precision).removeprefix("torch.")
    print(
        f"{precision}, channels-last, batch 128, {arguments.threads} threads, "
        f"{arguments.rounds} rounds of {STEPS} steps\n"
    )
    print("| network | how | images/s | lowest - highest | FLOP (million) | images/s x FLOP, over the parent's best |")
    print("|---|---|---|---|---|---|")
    for (name, how, macs, *_), median, found in zip(variants, medians, speeds, strict=True):
        spread = f"{min(found):.0f} - {max(found):.0f}"
        print(f"| {name} | {how} | {median:.0f} | {spread} | {macs / 1e6:.1f} | {median * macs / base:.2f} |")


if __name__ == "__main__":
    main()
