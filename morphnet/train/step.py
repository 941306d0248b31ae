"""One step of training over tensors that stay in their place: run as it is, or captured once as a CUDA graph."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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


class TrainStep:
    """Augmentation, forward, backward and optimizer of the steps of one epoch after the other.

    :meth:`load` begins an epoch; every :meth:`run` takes the next batch of it. Nothing is read back in between: losses
    and errors stay on the device until :meth:`measured` fetches them.

    Args:
        model: what is called on the images, such as a compiled network; its parameters are the optimizer's.
        ranks: the processes that share every batch; each trains on its part of it.
        label_smoothing: of the cross entropy.
        average: of the weights, which follows every step.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        optimizer: torch.optim.SGD,
        engine: Engine,
        scaler: torch.amp.GradScaler | None = None,
        ranks: Ranks = ALONE,
        label_smoothing: float = 0.0,
        average: WeightAverage | None = None,
    ) -> None:
        self.model, self.optimizer, self.engine = model, optimizer, engine
        self.scaler, self.ranks, self.label_smoothing, self.average = scaler, ranks, label_smoothing, average
        ranks.share(batches.batch_size)  # refuses one that cannot be divided
        self.feed = batches.feed(ranks.index, ranks.count)
        self.row = torch.zeros(1, dtype=torch.int64, device=engine.device)  # the next one to take
        # Loss and errors of each step of an epoch.
        self.sums = torch.zeros(len(batches), 2, dtype=torch.float64, device=engine.device)
        self._base = int(generator_for(*batches.key, "step").initial_seed())
        self._graph: torch.cuda.CUDAGraph | None = None
        self._draws: bool | None = (
            None  # whether a step draws random numbers; None until a step of the epoch has shown it
        )

    def load(self, epoch: int, row: int = 0) -> None:
        """Begins epoch ``epoch``, to be taken from ``row`` on."""
        self.feed.load(epoch, row)
        self.row.fill_(row)
        self._draws = None

    def run(self, step: int, lr: float) -> None:
        """Trains on the next row; ``step`` counts from the beginning of the phase.

        A group of the optimizer that has an ``lr_factor`` is trained at so many times ``lr``.
        """
        self.feed.advance()
        if self._draws is not False:
            seed_step(self._base, step, self.engine.device, self.ranks.index)
        before = random_state(self.engine.device) if self._draws is None else None
        for group in self.optimizer.param_groups:
            rate = lr * group.get("lr_factor", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self.average is not None:
            self.average.prepare(step)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._step_once()
        if before is not None:
            self._draws = random_state(self.engine.device) != before

    @property
    def is_captured(self) -> bool:
        """Whether :meth:`run` replays a CUDA graph."""
        return self._graph is not None

    def measured(self, first: int, last: int) -> list[tuple[float, int]]:
        """(mean loss, errors) of the whole batches of rows ``first`` to ``last - 1``; waits for the device."""
        return [(loss / self.ranks.count, int(errors)) for loss, errors in self.sums[first:last].tolist()]

    def try_to_capture(self) -> str:
        """:meth:`capture`; says why, if a step cannot be captured and need not be.

        Raises:
            RuntimeError: it cannot be, and the engine was told to.
        """
        try:
            self.capture()
        except RuntimeError as error:
            if self.engine.cuda_graph == "true":
                raise
            return (str(error).splitlines() or [type(error).__name__])[0]
        return ""

    def capture(self) -> None:
        """From now on :meth:`run` replays one CUDA graph; parameters, buffers and optimizer are left as they are.

        Raises:
            RuntimeError: the step cannot be captured, since something in it waits for the device; :meth:`run` goes on
                step by step.
        """
        for group in self.optimizer.param_groups:  # a number would be baked into the graph
            group["lr"] = torch.tensor(float(group["lr"]), device=self.engine.device)
        kept = [*self.model.parameters(), *self.model.buffers(), self.row, self.sums]
        kept += [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        kept += self.average.tensors() if self.average is not None else []
        before = [t.detach().to("cpu", copy=True) for t in kept]  # not in the memory that is measured
        try:
            with torch.cuda.device(self.engine.device):
                graph = self._captured()
        finally:
            with torch.no_grad():
                for tensor, value in zip(kept, before, strict=True):
                    tensor.copy_(value)
        self._graph = graph

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream(self.engine.device)
        stream.wait_stream(torch.cuda.current_stream())
        mode = torch.cuda.get_sync_debug_mode()
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it is a prototype
        try:
            with torch.cuda.stream(stream):
                for left in reversed(range(WARM_UP_STEPS)):
                    self.row.zero_()
                    if not left:  # a wait is found here, for not every version of torch gets over a failed capture
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
        loss, logits = train_step(
            self.model, images, labels, self.optimizer, self.engine, self.scaler, self.label_smoothing
        )
        if self.average is not None:
            self.average.update()
        errors = (logits.argmax(1) != labels).sum()
        sums = torch.stack([loss.detach().double(), errors.double()]).unsqueeze(0)
        self.sums.index_copy_(0, self.row, self.ranks.add_up(sums))
        self.row += 1


def train_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    engine: Engine,
    scaler: torch.amp.GradScaler | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One step of the optimizer on one batch; returns the loss before it and the logits."""
    optimizer.zero_grad(set_to_none=True)
    with engine.autocast():
        logits = model(engine.place_images(images))
    logits = logits if logits.dtype == torch.float64 else logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return loss, logits


def seed_step(base: int, step: int, device: torch.device, rank: int = 0) -> None:
    """Seeds every global generator for one step, so that what is random in it (dropout) is a function of these.

    A continued phase needs no generator's state for this reason, whatever the number of processes.
    """
    seed = (base + 0x9E3779B97F4A7C15 * (step + 1) + 0xBF58476D1CE4E5B9 * rank) % 2**63
    for generator in _generators(device):  # torch.manual_seed does the same in 290 us on a machine with a GPU
        generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> tuple[object, ...]:
    """The state of every generator that :func:`seed_step` seeds, to be compared; waits for no device."""
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
    """Gives the global generators, and that of ``device``, back as they were."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def make_optimizer(
    network: nn.Module,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    kept: frozenset[str] = frozenset(),
    kept_lr: float = 1.0,
) -> torch.optim.SGD:
    """SGD over all parameters of ``network``, without weight decay on the slopes of Eq. (8).

    A decay of ``a`` would pull new layers back from the identity (a = 1) to the plain activation (a = 0). The
    momentum is there from the beginning, as zeros, so that every step is the same sequence of operations.

    Args:
        kept: names of parameters that are trained at ``kept_lr`` times the rate of the others.
    """
    parameters: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, weight_decay): []}
    for name, parameter in network.named_parameters():
        factor, decay = kept_lr if name in kept else 1.0, 0.0 if name.endswith(".a") else weight_decay
        parameters.setdefault((factor, decay), []).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": chosen, "weight_decay": decay, **({"lr_factor": factor} if factor != 1 else {})}
        for (factor, decay), chosen in parameters.items()
        if chosen or len(parameters) == 1
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
    if momentum:
        for group in optimizer.param_groups:
            for parameter in filter(lambda p: p.requires_grad, group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
