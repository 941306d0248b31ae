"""One phase of training: a network and a schedule in, the trained network and its figures out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
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
    evaluator = Engine(engine.device, EVALUATION_PRECISION, engine.channels_last)
    checkpoint = load_checkpoint(checkpoint_path)
    if schedule is None:
        start = evaluate(network, evaluation_batches(batches.data), evaluator)
        _log_evaluation(log, 0, start)
        return PhaseResult(start, start, None, (), 0, None, 0.0, None, False, 0)
    optimizer = make_optimizer(
        network, schedule.lr, optimisation.momentum, optimisation.weight_decay, optimisation.nesterov
    )
    running, history, step, seconds, resumed = Running(engine.device), [], 0, 0.0, 0
    if checkpoint is not None:
        network.load_state_dict(checkpoint.network)
        optimizer.load_state_dict(checkpoint.optimizer)
        *sums, running.images = checkpoint.running
        running.sums += torch.tensor(sums, dtype=torch.float64, device=engine.device)
        step, history, seconds = checkpoint.step, checkpoint.history, checkpoint.seconds
        resumed = checkpoint.resumed + 1
        print(f"{name}: goes on at step {step:,} of {schedule.steps:,}", flush=True)
    else:
        start = evaluate(network, evaluation_batches(batches.data), evaluator)
        _log_evaluation(log, 0, start)
        history.append({"step": 0, "epoch": 0, "test_loss": start.loss, "test_errors": start.errors})
    compiled = engine.compiles((schedule.steps - step) * batches.batch_size)
    model = cast(nn.Module, torch.compile(network)) if compiled else network

    def save(until: float) -> None:
        sums = running.sums.tolist()
        state = Checkpoint(
            step,
            network.state_dict(),
            optimizer.state_dict(),
            (sums[0], sums[1], running.images),
            history,
            until,
            resumed,
        )
        save_checkpoint(state, checkpoint_path)

    if compiled:
        quiet_compilation()
        print(f"{name}: compiling the network first, about a minute ...", flush=True)
    progress = Progress(name, schedule.steps, batches.batch_size, step)
    network.train()
    train: Evaluation | None = None
    last_saved = clock = time.perf_counter()
    stretch = seconds  # training seconds at the last report, for images/s
    while step < schedule.steps:
        epoch = step // len(batches)
        for images, labels in batches.epoch(epoch, step % len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            loss, logits = train_step(model, images, labels, optimizer, engine)
            running.add(loss, logits, labels)
            step += 1
            progress.step(step, running.read)
            if step == schedule.steps:
                break
            now = time.perf_counter()
            if now - last_saved >= checkpoint_seconds and step % len(batches):
                save(seconds + now - clock)
                last_saved = time.perf_counter()
        train_now = running.read()  # waits for the device
        if not math.isfinite(train_now.loss):
            raise FloatingPointError(
                f"{name}: the loss is {train_now.loss} at step {step:,}, learning rate {schedule.rate(step - 1):.3g}; "
                "try a lower optim.lr, or schedule.warmup_steps"
            )
        seconds, clock = seconds + time.perf_counter() - clock, time.perf_counter()
        if (epoch + 1) % evaluate_every == 0 or step == schedule.steps:
            train = train_now
            final = evaluate(network, evaluation_batches(batches.data), evaluator)
            speed = running.images / max(seconds - stretch, 1e-9)
            entry = {
                "step": step,
                "epoch": epoch + 1,
                "lr": schedule.rate(step - 1),
                "train_loss": train.loss,
                "train_error": train.error,
                "test_loss": final.loss,
                "test_errors": final.errors,
                "images_per_second": round(speed, 1),
            }
            history.append(entry)
            _log_evaluation(log, step, final)
            for metric in ("train_loss", "train_error", "lr", "images_per_second"):
                log(step, metric, entry[metric])
            progress.evaluated(step, train, batches.data.evaluated_on, final)
            running, stretch = Running(engine.device), seconds
        if step < schedule.steps and time.perf_counter() - last_saved >= checkpoint_seconds:
            save(seconds)
            last_saved = time.perf_counter()
        clock = time.perf_counter()
    progress.close()
    first, last = history[0], history[-1]
    size = len(batches.data.test)
    return PhaseResult(
        start=Evaluation(first["test_loss"], first["test_errors"], size),
        final=Evaluation(last["test_loss"], last["test_errors"], size),
        train=train,
        history=tuple(history),
        steps=step,
        lr=schedule.rate(step - 1),
        seconds=seconds,
        images_per_second=step * batches.batch_size / max(seconds, 1e-9),
        compiled=compiled,
        resumed=resumed,
    )


def _log_evaluation(log: Log, step: int, evaluation: Evaluation) -> None:
    log(step, "test_loss", evaluation.loss)
    log(step, "test_error", evaluation.error)
