"""Time of PReLU on this machine: ours, PyTorch's, and ReLU for comparison.

    python benchmarks/activation.py [--threads 2]

Measures forward and backward of one activation of each stage of a CIFAR ResNet at batch 128, channels-last. Prints
medians in milliseconds as a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from morphnet.nn.activation import prelu

SHAPES = ((128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8))


def median_milliseconds(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, a: Tensor, rounds: int) -> float:
    grad = torch.randn_like(x)
    times = []
    for _ in range(rounds + 3):
        started = time.perf_counter()
        function(x, a).backward(grad)
        times.append(time.perf_counter() - started)
        x.grad = a.grad = None
    return 1e3 * statistics.median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ReLU": lambda x, a: F.relu(x),
        "PReLU, PyTorch": lambda x, a: F.prelu(x, a.to(x.dtype)),
        "PReLU, morphnet": prelu,
    }
    print("| dtype | shape | " + " | ".join(f"{name} (ms)" for name in functions) + " |")
    print("|---" * (2 + len(functions)) + "|")
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
            a = torch.full((shape[1],), 0.25, requires_grad=True)
            times = [median_milliseconds(function, x, a, arguments.rounds) for function in functions.values()]
            cells = [str(dtype).removeprefix("torch."), str(shape), *(f"{t:.2f}" for t in times)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
