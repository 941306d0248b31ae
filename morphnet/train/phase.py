"""One phase of training: a network and a schedule in, the trained network and its figures out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from morphnet.data import TrainBatches, evaluation_batches
from morphnet.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from morphnet.train.engine import Engine, quiet_compilation
from morphnet.train.loop import Evaluation, Running, evaluate, make_optimizer, train_step
from morphnet.train.progress import Progress
from morphnet.train.schedule import Schedule

#: Evaluation is in float32 whatever the training is in, so that a figure can be checked on any machine.
EVALUATION_PRECISION = torch.float32


@dataclass(frozen=True)
class Optimisation:
    """What the optimizer needs beside the learning rate."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum={self.momentum}: a number from 0 to below 1 is needed")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"optim.weight_decay={self.weight_decay}: a number from 0 is needed, such as 1e-4")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov=true needs optim.momentum above 0")


@dataclass(frozen=True)
class PhaseResult:
    """Figures of one phase.

    Attributes:
        start: the evaluation before the first step; of a child, what its morph kept.
        final: after the last step.
        train: loss and error over the last stretch of training, augmented, as the network changed.
        history: one entry per evaluated epoch.
        seconds: spent in training steps, evaluation left out.
        compiled: whether the steps went through ``torch.compile``.
        resumed: how often the phase was continued after an interruption.
    """

    start: Evaluation
    final: Evaluation
    train: Evaluation | None
    history: tuple[dict[str, Any], ...]
    steps: int
    lr: float | None
    seconds: float
    images_per_second: float | None
    compiled: bool
    resumed: int


#: Receives (step in the phase, metric, value).
Log = Callable[[int, str, float], None]


def run_phase(
    network: nn.Module,
    batches: TrainBatches,
    schedule: Schedule | None,
    optimisation: Optimisation,
    engine: Engine,
    *,
    name: str,
    log: Log,
    checkpoint_path: Path,
    checkpoint_seconds: float = 30.0,
    evaluate_every: int = 1,
) -> PhaseResult:
    """Trains ``network`` in place; goes on from the checkpoint in ``checkpoint_path`` if there is one.

    Args:
        schedule: None evaluates the network and leaves it as it is.
        log: called at step 0 and after every evaluated epoch.
        checkpoint_seconds: time between two checkpoints; 0 writes one after every step.
        evaluate_every: epochs between two evaluations; there is always one at the end.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        ValueError: the checkpoint is damaged.
    """
    engine.place(network)
    if schedule is None:
        start = _evaluate(network, batches, engine, log, 0)
        return PhaseResult(start, start, None, (), 0, None, 0.0, None, False, 0)
    phase = _Phase(name, network, batches, schedule, optimisation, engine, log)
    if not phase.resume(checkpoint_path):
        phase.begin()
    # Decided by the length of the whole phase, so that a continued phase is computed as it began.
    compiled = engine.compiles(schedule.steps * batches.batch_size)
    if compiled:
        torch._dynamo.reset()  # else the graphs of earlier phases count towards its limit, and it stops compiling
    model = cast(nn.Module, torch.compile(network)) if compiled else network
    if compiled:
        quiet_compilation()
        print(f"{name}: compiling the network first, about a minute ...", flush=True)
    progress = Progress(name, schedule.steps, batches.batch_size, phase.step)
    saved_at = time.perf_counter()

    def save_if_due() -> None:
        nonlocal saved_at
        if phase.step < schedule.steps and time.perf_counter() - saved_at >= checkpoint_seconds:
            phase.save(checkpoint_path)
            saved_at = time.perf_counter()

    network.train()
    while phase.step < schedule.steps:
        with phase.clock():
            for _ in phase.epoch(model):
                progress.step(phase.step, phase.running.read)
                if phase.in_epoch:
                    save_if_due()
            train = phase.check_finite()
        if phase.step == schedule.steps or phase.epochs_done % evaluate_every == 0:
            test = phase.evaluate(train)
            progress.evaluated(phase.step, train, batches.data.evaluated_on, test)
        save_if_due()
    progress.close()
    return phase.result(train, compiled)


class _Phase:
    """The state of a phase that is under way, and what can happen to it."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        batches: TrainBatches,
        schedule: Schedule,
        optimisation: Optimisation,
        engine: Engine,
        log: Log,
    ) -> None:
        self.name, self.network, self.batches, self.schedule = name, network, batches, schedule
        self.engine, self.log = engine, log
        self.optimizer = make_optimizer(
            network, schedule.lr, optimisation.momentum, optimisation.weight_decay, optimisation.nesterov
        )
        self.running = Running(engine.device)
        self.history: list[dict[str, Any]] = []
        self.step = self.resumed = 0
        self.seconds = self.seconds_evaluated = 0.0  # of training: so far, and at the last evaluation
        self._clock_started: float | None = None

    @property
    def in_epoch(self) -> bool:
        """Whether the step lies inside an epoch."""
        return self.step % len(self.batches) > 0

    @property
    def epochs_done(self) -> int:
        return self.step // len(self.batches)

    def begin(self) -> None:
        start = _evaluate(self.network, self.batches, self.engine, self.log, 0)
        self.history = [{"step": 0, "epoch": 0, "loss": start.loss, "errors": start.errors}]

    def resume(self, path: Path) -> bool:
        """Takes over the checkpoint in ``path``; False if there is none."""
        checkpoint = load_checkpoint(path)
        if checkpoint is None:
            return False
        self.network.load_state_dict(checkpoint.network)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.running.restore(*checkpoint.running)
        self.step, self.history, self.resumed = checkpoint.step, checkpoint.history, checkpoint.resumed + 1
        self.seconds, self.seconds_evaluated = checkpoint.seconds, checkpoint.seconds_evaluated
        print(f"{self.name}: goes on at step {self.step:,} of {self.schedule.steps:,}", flush=True)
        return True

    def save(self, path: Path) -> None:
        checkpoint = Checkpoint(
            step=self.step,
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            running=self.running.state(),
            history=self.history,
            seconds=self.seconds + self._on_clock(),
            seconds_evaluated=self.seconds_evaluated,
            resumed=self.resumed,
        )
        save_checkpoint(checkpoint, path)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """What happens within counts as training time."""
        self._clock_started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += self._on_clock()
            self._clock_started = None

    def epoch(self, model: nn.Module) -> Iterator[None]:
        """Trains to the end of the epoch or of the phase, and comes up after every step."""
        index, start = divmod(self.step, len(self.batches))
        for images, labels in self.batches.epoch(index, start):
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step)
            loss, logits = train_step(model, images, labels, self.optimizer, self.engine)
            self.running.add(loss, logits, labels)
            self.step += 1
            yield
            if self.step == self.schedule.steps:
                return

    def check_finite(self) -> Evaluation:
        """Loss and error since the last evaluation; reading them waits for the device."""
        train = self.running.read()
        if not math.isfinite(train.loss):
            raise FloatingPointError(
                f"{self.name}: the loss is {train.loss} at step {self.step:,}, learning rate "
                f"{self.schedule.rate(self.step - 1):.3g}; try a lower optim.lr, or schedule.warmup_steps"
            )
        return train

    def evaluate(self, train: Evaluation) -> Evaluation:
        """Counts the errors, writes down everything measured since the last evaluation, and begins anew."""
        test = _evaluate(self.network, self.batches, self.engine, self.log, self.step)
        speed = self.running.images / max(self.seconds - self.seconds_evaluated, 1e-9)
        measured = {
            "lr": self.schedule.rate(self.step - 1),
            "train_loss": train.loss,
            "train_error": train.error,
            "images_per_second": round(speed, 1),
        }
        for metric, value in measured.items():
            self.log(self.step, metric, value)
        epoch = -(-self.step // len(self.batches))
        self.history.append({"step": self.step, "epoch": epoch, **measured, "loss": test.loss, "errors": test.errors})
        self.running, self.seconds_evaluated = Running(self.engine.device), self.seconds
        return test

    def result(self, train: Evaluation, compiled: bool) -> PhaseResult:
        first, last = (
            Evaluation(entry["loss"], entry["errors"], len(self.batches.data.test))
            for entry in (self.history[0], self.history[-1])
        )
        return PhaseResult(
            start=first,
            final=last,
            train=train,
            history=tuple(self.history),
            steps=self.step,
            lr=self.schedule.rate(self.step - 1),
            seconds=self.seconds,
            images_per_second=self.step * self.batches.batch_size / max(self.seconds, 1e-9),
            compiled=compiled,
            resumed=self.resumed,
        )

    def _on_clock(self) -> float:
        return 0.0 if self._clock_started is None else time.perf_counter() - self._clock_started


def _evaluate(network: nn.Module, batches: TrainBatches, engine: Engine, log: Log, step: int) -> Evaluation:
    evaluator = Engine(engine.device, EVALUATION_PRECISION, engine.channels_last)
    found = evaluate(network, evaluation_batches(batches.data), evaluator)
    if not math.isfinite(found.loss):
        raise FloatingPointError(
            f"the network computes {found.loss} on the {batches.data.evaluated_on} images after {step:,} steps; "
            "check the parent and data.normalize, or try a lower optim.lr"
        )
    log(step, "loss", found.loss)
    log(step, "error", found.error)
    return found
