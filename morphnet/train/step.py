"""One step of training over tensors that stay in place: run as it is, or captured once as a CUDA graph."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from morphnet.data import Batches, generator_for
from morphnet.train.average import WeightAverage
from morphnet.train.engine import Engine
from morphnet.train.ranks import ALONE, Ranks

#: Steps run before a capture, so that every library has chosen its kernels and taken its memory.
WARM_UP_STEPS = 3


class Learner:
    """A model and what updates its weights: loss, gradient scaler, optimizer and moving average.

    Args:
        model: what is called on the images, such as a compiled network; its parameters are the optimizer's.
        label_smoothing: of the cross entropy.
        average: of the weights, which follows every step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.SGD,
        engine: Engine,
        label_smoothing: float = 0.0,
        average: WeightAverage | None = None,
    ) -> None:
        self.model, self.optimizer, self.engine = model, optimizer, engine
        self.label_smoothing, self.average, self.scaler = label_smoothing, average, engine.scaler()

    def update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the optimizer on one batch; returns the loss before it and the logits."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.engine.autocast():
            logits = self.model(self.engine.place_images(images))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        return loss, logits

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate; a group that has an ``lr_factor`` gets so many times ``lr``."""
        for group in self.optimizer.param_groups:
            rate = lr * group.get("lr_factor", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def tensors(self) -> list[Tensor]:
        """Everything that an update changes."""
        momentum = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        average = self.average.tensors() if self.average is not None else []
        return [*self.model.parameters(), *self.model.buffers(), *momentum, *average]

    def state_dict(self) -> dict[str, Any]:
        """State dicts of optimizer, scaler and average, for a checkpoint; the network has its own."""
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group["lr"] = float(group["lr"])
        return {
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "average": {} if self.average is None else self.average.network.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where it does nothing
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])


class TrainStep:
    """The steps of one epoch after the other: :meth:`load` begins an epoch, :meth:`run` trains on its next batch.

    Losses and errors stay on the device until :meth:`measured` reads them.

    Args:
        ranks: the processes that share every batch; each trains on its part of it.
    """

    def __init__(self, learner: Learner, batches: Batches, ranks: Ranks = ALONE) -> None:
        self.learner, self.ranks, self.device = learner, ranks, learner.engine.device
        ranks.share(batches.batch_size)  # refuses one that cannot be divided
        self.feed = batches.feed(ranks.index, ranks.count)
        self.row = torch.zeros(1, dtype=torch.int64, device=self.device)  # the next one to take
        # Loss and errors of each step of an epoch.
        self.sums = torch.zeros(len(batches), 2, dtype=torch.float64, device=self.device)
        self._base = int(generator_for(*batches.key, "step").initial_seed())
        self._graph: torch.cuda.CUDAGraph | None = None
        self._draws: bool | None = None  # whether steps draw random numbers; None before the first one of an epoch

    def load(self, epoch: int, row: int = 0) -> None:
        """Begins epoch ``epoch``, to be taken from ``row`` on."""
        self.feed.load(epoch, row)
        self.row.fill_(row)
        self._draws = None

    def run(self, step: int, lr: float) -> None:
        """Trains on the next row; ``step`` counts from the beginning of the phase."""
        self.feed.advance()
        if self._draws is not False:
            seed_step(self._base, step, self.device, self.ranks.index)
        before = random_state(self.device) if self._draws is None else None
        self.learner.set_lr(lr)
        if self.learner.average is not None:
            self.learner.average.prepare(step)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._step_once()
        if before is not None:
            self._draws = random_state(self.device) != before

    @property
    def is_captured(self) -> bool:
        """Whether :meth:`run` replays a CUDA graph."""
        return self._graph is not None

    def measured(self, first: int, last: int) -> list[tuple[float, int]]:
        """(mean loss, errors) of the whole batches of rows ``first`` to ``last - 1``; waits for the device."""
        return [(loss / self.ranks.count, int(errors)) for loss, errors in self.sums[first:last].tolist()]

    def try_to_capture(self) -> str:
        """:meth:`capture`; returns why a step cannot be captured, or "".

        Raises:
            RuntimeError: it cannot be, and the engine demands it.
        """
        try:
            self.capture()
        except RuntimeError as error:
            if self.learner.engine.cuda_graph == "true":
                raise
            return (str(error).splitlines() or [type(error).__name__])[0]
        return ""

    def capture(self) -> None:
        """Makes :meth:`run` replay one CUDA graph; parameters, buffers and optimizer keep their values.

        Raises:
            RuntimeError: something in the step waits for the device, so that :meth:`run` stays as it is.
        """
        for group in self.learner.optimizer.param_groups:  # a number would be baked into the graph
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
        kept = [*self.learner.tensors(), self.row, self.sums]
        before = [t.detach().to("cpu", copy=True) for t in kept]  # not in the memory that is measured
        try:
            with torch.cuda.device(self.device):
                graph = self._captured()
        finally:
            with torch.no_grad():
                for tensor, value in zip(kept, before, strict=True):
                    tensor.copy_(value)
        self._graph = graph

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        mode = torch.cuda.get_sync_debug_mode()
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it is a prototype
        try:
            with torch.cuda.stream(stream):
                for left in reversed(range(WARM_UP_STEPS)):
                    self.row.zero_()
                    if not left:  # finds a wait here: not every version of torch recovers from a failed capture
                        torch.cuda.set_sync_debug_mode("error")
                    self._step_once()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream().wait_stream(stream)
        self.row.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._step_once()
        self.row.zero_()
        graph.replay()
        if int(self.row) != 1:
            raise RuntimeError("the graph is empty: the step ran on another stream")
        return graph

    def _step_once(self) -> None:
        images, labels = self.feed.batch(self.row)
        loss, logits = self.learner.update(images, labels)
        errors = (logits.argmax(1) != labels).sum()
        sums = torch.stack([loss.detach().double(), errors.double()]).unsqueeze(0)
        self.sums.index_copy_(0, self.row, self.ranks.add_up(sums))
        self.row += 1


def seed_step(base: int, step: int, device: torch.device, rank: int = 0) -> None:
    """Seeds every global generator for one step, so that its random numbers (dropout) are a function of these.

    A continued phase therefore needs no generator's state, whatever the number of processes.
    """
    seed = (base + 0x9E3779B97F4A7C15 * (step + 1) + 0xBF58476D1CE4E5B9 * rank) % 2**63
    for generator in _generators(device):  # torch.manual_seed takes 290 us on a machine with a GPU
        generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> tuple[object, ...]:
    """The state of every generator that :func:`seed_step` seeds, for comparison; waits for no device."""
    of_numpy = np.random.get_state(legacy=False)["state"]
    states = [bytes(generator.get_state().numpy()) for generator in _generators(device)]
    return (*states, random.getstate(), bytes(of_numpy["key"]), of_numpy["pos"])


def _generators(device: torch.device) -> list[torch.Generator]:
    """torch's global generators of the CPU, and of ``device``."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Restores the global generators, and that of ``device``, afterwards."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
