"""How the arithmetic is done on a device: precision, memory layout, compilation."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

#: ``float64`` is for comparisons.
PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

#: Below these ``compile=auto`` does not compile, since that costs more than it gains: training images on a CPU
#: (results/README.md), steps on a GPU (18 to 24 s for 1.25x and 1.5x the speed on an H100).
COMPILE_FROM_IMAGES, COMPILE_FROM_STEPS = 300_000, 30_000


@dataclass(frozen=True)
class Engine:
    """Where and in which precision a network is trained.

    Attributes:
        precision: ``float32``; ``bfloat16`` or ``float16`` for autocast around the forward pass, the latter with a
            gradient scaler; ``float64`` for everything.
        channels_last: whether images lie in memory pixel by pixel; :meth:`place` decides it for a network.
        compile: ``auto``, ``true`` or ``false``: whether a network is trained through ``torch.compile``.
        cuda_graph: the same: whether a step on a GPU is captured once and replayed.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    channels_last: bool = False
    compile: str = "auto"
    cuda_graph: str = "auto"

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: nn.Module) -> Engine:
        """Puts ``network`` on the device, in the fastest memory format that is safe there; cuDNN tries its algorithms.

        Returns:
            The engine that computes with it, whose images have the same format.
        """
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        if self.precision == torch.float64:
            network.double()
        placed = replace(self, channels_last=self.device.type != "cpu" or not _corrupts_in_channels_last(network))
        network.to(self.device).to(memory_format=placed.layout)
        return placed

    def place_images(self, images: Tensor) -> Tensor:
        images = images.double() if self.precision == torch.float64 else images
        return images.to(self.device).contiguous(memory_format=self.layout)

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision in (torch.float32, torch.float64):
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients of float16 from vanishing; does nothing in any other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def evaluator(self) -> Engine:
        """The engine of evaluations, in float32 (float64 for that), so that any machine can check a figure."""
        precision = torch.float64 if self.precision == torch.float64 else torch.float32
        return Engine(self.device, precision, self.channels_last)

    def compiled(self, network: nn.Module) -> nn.Module:
        """``network`` through ``torch.compile``, in the memory format of this engine."""
        torch._dynamo.reset()  # else the graphs of earlier networks count towards its limit, and it stops compiling
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # on a CPU it warns that there is no GPU
        # On a CPU the compiler itself would take channels_last.
        options: dict[str, Any] | None = None if self.channels_last else {"layout_optimization": False}
        return cast(nn.Module, torch.compile(network, options=options))

    def captures(self, processes: int = 1) -> bool:
        """Whether a step is replayed as a CUDA graph: on a GPU, by one process, without a gradient scaler.

        Raises:
            ValueError: the configuration demands it, and it is impossible.
        """
        possible = self.device.type == "cuda" and processes == 1 and self.precision != torch.float16
        if self.cuda_graph == "true" and not possible:
            raise ValueError(
                "trainer.cuda_graph=true needs one process on one GPU, and float32 or bfloat16; "
                "auto uses it where it can"
            )
        return possible and self.cuda_graph != "false"

    def compiles(self, steps: int, batch_size: int) -> bool:
        """Whether a phase goes through ``torch.compile``."""
        if self.compile != "auto":
            return self.compile == "true"
        pays = steps * batch_size >= COMPILE_FROM_IMAGES if self.device.type == "cpu" else steps >= COMPILE_FROM_STEPS
        return pays and compiler_found()


def choose_engine(
    device: str = "auto", precision: str = "auto", compile: str = "auto", cuda_graph: str = "auto"
) -> Engine:
    """The engine that a configuration names.

    ``precision=auto`` is bfloat16 where the processor has the instructions, and float32 elsewhere.

    Raises:
        ValueError: a value is unknown, or the device is missing.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; expected auto, {', '.join(PRECISIONS)}")
    for key, value in (("compile", compile), ("cuda_graph", cuda_graph)):
        if value.lower() not in ("auto", "true", "false"):
            raise ValueError(f"trainer.{key}={value!r}; expected auto, true or false")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        if place.type not in ("cpu", "cuda"):
            raise RuntimeError("cpu and cuda are supported")
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used here ({first}); try device=cpu") from error
    gains = _has_bfloat16(place)
    dtype = (torch.bfloat16 if gains else torch.float32) if precision == "auto" else PRECISIONS[precision]
    return Engine(place, dtype, compile=compile.lower(), cuda_graph=cuda_graph.lower())


def compiler_found() -> bool:
    """Whether ``torch.compile`` has what it needs for the CPU: a C++ compiler and Python's headers."""
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def keep_freed_memory() -> None:
    """Makes glibc, where there is one, keep freed memory: fewer page faults in each step."""
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, its largest value
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


def _corrupts_in_channels_last(network: nn.Module) -> bool:
    """Whether a step of ``network`` in channels_last may write beyond its memory, on a CPU.

    torch 2.14.1 does so without AVX-512, in the backward pass of a 1x1 convolution with a stride and fewer than 8
    input channels: ``Conv2d(4, 4, 1, stride=2)`` on ``(100, 4, 8, 8)`` ends in "free(): invalid next size". Such a
    network stays contiguous on every CPU, since a run may continue on another one.
    """
    return any(
        isinstance(m, nn.Conv2d) and max(m.kernel_size) == 1 < max(m.stride) and m.in_channels // m.groups < 8
        for m in network.modules()
    )


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())
