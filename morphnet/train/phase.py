"""A phase of training: what goes in, its parts while it is trained, and what comes out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from morphnet.config import OptimConfig
from morphnet.data import Batches, ImageData
from morphnet.report.record import environment
from morphnet.train.average import WeightAverage
from morphnet.train.checkpoint import CheckpointFiles, PhaseState
from morphnet.train.diagnostics import Diagnostics, FirstSteps
from morphnet.train.engine import Engine
from morphnet.train.evaluate import Evaluation, evaluate_data
from morphnet.train.handover import Beginning, momentum_of
from morphnet.train.interruption import Interruption
from morphnet.train.optimizer import make_optimizer
from morphnet.train.progress import Progress
from morphnet.train.ranks import Ranks
from morphnet.train.schedule import Schedule
from morphnet.train.step import Learner, TrainStep
from morphnet.train.steplog import StepLog
from morphnet.train.stretches import Arithmetic, begin_stretch, extend_stretch

#: Receives (step in the phase, metric, value).
Log = Callable[[int, str, float], None]

#: On a GPU a checkpoint waits for the end of the epoch, up to so many times ``checkpoint_seconds``.
MID_EPOCH_PATIENCE = 10


@dataclass(frozen=True)
class Place:
    """Where a phase is trained: the device and its arithmetic, and the processes that share every batch.

    Attributes:
        stop: tells the processes to stop, all after the same step.
    """

    engine: Engine
    stop: Interruption = field(default_factory=Interruption)

    @property
    def ranks(self) -> Ranks:
        return self.stop.ranks

    @property
    def is_cpu(self) -> bool:
        """Whether losses can be read within an epoch without making a device wait."""
        return self.engine.device.type == "cpu"


@dataclass(frozen=True)
class PhaseSettings:
    """How a phase is trained, apart from its schedule.

    Attributes:
        beginning: rates and momentum it starts with; by default one rate and no momentum.
        evaluate_every: epochs between two evaluations; there is always one at the end.
        checkpoint_seconds: time between two checkpoints; 0 writes one after every step.
        sync_bn: whether batch normalisation measures the whole batch, on GPUs.
    """

    optimisation: OptimConfig = field(default_factory=OptimConfig)
    beginning: Beginning = field(default_factory=Beginning)
    evaluate_every: int = 1
    checkpoint_seconds: float = 30.0
    sync_bn: bool = False


@dataclass(frozen=True)
class Outputs:
    """Where a phase writes; only the first process does.

    Attributes:
        name: of the phase, for messages.
        folder: of ``checkpoint.pt``, the one before it and ``steps.csv``.
        log: called at step 0 and after every evaluated epoch.
        identity: of the phase; a checkpoint of another one is refused.
        diagnostics: what is measured in the network at every evaluation, for ``log``.
        first_steps: what is measured after the first steps.
        made_with: the environment of this process, for the stretches.
    """

    name: str
    folder: Path
    log: Log = lambda step, metric, value: None
    identity: str = ""
    diagnostics: Diagnostics | None = None
    first_steps: FirstSteps | None = None
    made_with: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PhaseResult:
    """Figures of one phase.

    Attributes:
        start: the evaluation before the first step; of a child, what its morph kept.
        final: after the last step.
        final_views: the same over ten views of each image, where the data asks for them.
        train_loss, train_error: over the last stretch of training, augmented, as the network changed; None without one.
        history: one entry per evaluated epoch.
        seconds: spent in training steps, evaluation left out.
        compiled: whether the steps went through ``torch.compile``.
        resumed: how often the phase was continued after an interruption.
        stretches: which steps were trained where and how; see :func:`~morphnet.train.stretches.begin_stretch`.
        gpu_memory: the most that tensors held on this process's GPU, in bytes; None on a CPU.
        momentum: of every parameter at the end, by name; empty where nothing was trained.
    """

    start: Evaluation
    final: Evaluation
    train_loss: float | None = None
    train_error: float | None = None
    history: tuple[dict[str, Any], ...] = ()
    steps: int = 0
    lr: float | None = None
    seconds: float = 0.0
    images_per_second: float | None = None
    compiled: bool = False
    resumed: int = 0
    stretches: tuple[dict[str, Any], ...] = ()
    gpu_memory: int | None = None
    final_views: Evaluation | None = None
    momentum: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)


class Phase:
    """The parts of a phase that is being trained; continues from the last whole checkpoint in its folder.

    Args:
        network: on the device of ``place``.
        schedule: of the whole phase.

    Attributes:
        state: how far the phase is.
        step: trains on one batch.
        progress: tells the user about it.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        schedule: Schedule,
        settings: PhaseSettings,
        place: Place,
        outputs: Outputs,
    ) -> None:
        self.network, self.batches, self.schedule, self.settings = network, batches, schedule, settings
        self.place, self.outputs = place, outputs
        engine, ranks, optimisation = place.engine, place.ranks, settings.optimisation
        if ranks.is_first:
            outputs.folder.mkdir(parents=True, exist_ok=True)
        optimizer = make_optimizer(network, schedule.lr, optimisation, settings.beginning)
        average = WeightAverage(network, optimisation.ema) if optimisation.ema else None
        # Depends on the length of the whole phase, so that a continued phase is computed as it began.
        self.compiled = engine.compiles(schedule.steps, batches.batch_size)
        model = ranks.parallel(network, engine.device, settings.sync_bn)
        model = engine.compiled(model) if self.compiled else model
        self.learner = Learner(model, optimizer, engine, optimisation.label_smoothing, average)
        self._files = CheckpointFiles(outputs.folder / "checkpoint.pt", outputs.identity)
        checkpoint = ranks.from_first(self._files.load)
        self.state = PhaseState() if checkpoint is None else self._resume(*checkpoint)
        self._steps_log = StepLog(outputs.folder / "steps.csv", self.state.step) if ranks.is_first else None
        self._first = self._read = self.state.step  # of this process; of those whose losses have been read
        self._saved_at = self._timed_at = time.perf_counter()
        self.progress = Progress(outputs.name, schedule.steps, batches.batch_size, self.state.step, ranks.is_first)
        self.progress.doing = "compiling" if self.compiled else "training"
        if self.compiled:
            print(f"{outputs.name}: compiling the network first, about a minute ...", flush=True)
        network.train()
        model.train()  # with synchronised norms a copy over the same tensors
        self.step = TrainStep(self.learner, batches, ranks)
        if engine.captures(ranks.count):
            self.step.load(0)
            problem = self.step.try_to_capture()
            if problem:
                print(f"{outputs.name}: no CUDA graph ({problem}); steps run one by one", flush=True)
        self._begin_stretch()

    def _resume(self, state: PhaseState, trained: Mapping[str, Any]) -> PhaseState:
        self.network.load_state_dict(trained["network"])
        self.learner.load_state_dict(trained)
        if self.outputs.first_steps is not None:
            self.outputs.first_steps.resume(state.step)
        print(f"{self.outputs.name}: goes on at step {state.step:,} of {self.schedule.steps:,}", flush=True)
        return replace(state, resumed=state.resumed + 1)

    def _begin_stretch(self) -> None:
        """From here on steps are done in this process's arithmetic; tells the user if it was another before."""
        engine = self.place.engine
        made_with = self.outputs.made_with or environment(engine.device)
        hardware = made_with["hardware"]
        arithmetic = Arithmetic(
            device=engine.device.type,
            hardware=hardware.get("gpu") or hardware["cpu"],
            precision=str(engine.precision).removeprefix("torch."),
            threads=torch.get_num_threads() if self.place.is_cpu else None,
            compiled=self.compiled,
            cuda_graph=self.step.is_captured,
            torch=str(torch.__version__),
        )
        message = begin_stretch(self.state.stretches, self.state.step, arithmetic, made_with["commit"])
        if message:
            print(f"{self.outputs.name}: {message}", flush=True)

    # --- evaluation ---

    def evaluation_is_due(self) -> bool:
        step, history = self.state.step, self.state.history
        epochs, rest = divmod(step, len(self.batches))
        due = step == self.schedule.steps or (rest == 0 and epochs % self.settings.evaluate_every == 0)
        return due and not (history and history[-1]["step"] == step)

    def evaluate(self) -> None:
        """Evaluates the network; logs that and everything measured since the last evaluation."""
        state, outputs, training = self.state, self.outputs, self.training
        if outputs.diagnostics is not None:
            # The gradients are those of a training step: neither scaled nor left by a capture.
            gradients = not self.learner.scaler.is_enabled() and state.step > self._first
            self._log(outputs.diagnostics.measure(self.network, gradients))
        if outputs.first_steps is not None and not state.step:
            outputs.first_steps.begin(self.network)
        average, doing, self.progress.doing = self.learner.average, self.progress.doing, "evaluating"
        evaluation = self._evaluate(self.network if average is None else average.network)
        self.progress.doing = doing
        figures: dict[str, float] = {}
        if state.step:
            speed = state.images / max(state.seconds - state.seconds_evaluated, 1e-9)
            figures = {
                "lr": self.schedule.rate(state.step - 1),
                "train_loss": training.loss,
                "train_error": training.error,
                "images_per_second": round(speed, 1),
            }
            self._log(figures)
        epoch = -(-state.step // len(self.batches))
        state.history.append({"step": state.step, "epoch": epoch, **figures, **evaluation.figures()})
        if state.step:
            self.progress.evaluated(state.step, self.batches.data.evaluated_on, evaluation, training)
        state.predictions, state.seconds_evaluated = evaluation.predictions, state.seconds
        state.loss, state.errors, state.images = 0.0, 0, 0

    def _evaluate(self, network: nn.Module, views: int = 1) -> Evaluation:
        return evaluate_phase(network, self.batches.data, self.place, self.outputs.log, self.state.step, views)

    @property
    def training(self) -> Evaluation:
        """Loss and errors on the training images since the last evaluation."""
        images = max(self.state.images, 1)
        return Evaluation(self.state.loss / images, self.state.errors, images)

    def _log(self, metrics: Mapping[str, float]) -> None:
        for metric, value in metrics.items():
            self.outputs.log(self.state.step, metric, value)

    # --- steps ---

    def begin_epoch(self, epoch: int, row: int) -> None:
        """Prepares the batches of ``epoch`` from ``row`` on; from here on time counts as training."""
        self._timed_at = time.perf_counter()
        self.step.load(epoch, row)

    def read_losses(self) -> None:
        """Reads loss and errors of the steps since the last time, which waits for the device, and takes the time.

        Raises:
            FloatingPointError: a loss is not finite; the step is named.
        """
        state, size = self.state, self.batches.batch_size
        if self._read == state.step:
            return
        first = self._read % len(self.batches)
        for loss, errors in self.step.measured(first, first + state.step - self._read):
            rate = self.schedule.rate(self._read)
            self._read += 1
            if not math.isfinite(loss):
                raise self._not_finite(f"the loss is {loss}", self._read)
            if self._steps_log is not None:
                self._steps_log.add(self._read, rate, loss, errors)
            state.loss += loss * size
            state.errors += errors
            state.images += size
        before, self._timed_at = self._timed_at, time.perf_counter()
        state.seconds += self._timed_at - before
        extend_stretch(state.stretches, state.step, state.seconds, size)

    def diagnose(self) -> None:
        """Measures the first steps, before any checkpoint of the same step."""
        first_steps, log = self.outputs.first_steps, self._steps_log
        if first_steps is not None and log is not None and first_steps.is_due(self.state.step):
            self.read_losses()
            log.flush()
            self._log(first_steps.write(self.network, self.state.step, log.path, self.batches.batch_size))

    def show(self) -> None:
        """Tells the user about the steps of this epoch, where reading their losses costs nothing."""
        if self.progress.step(self.state.step) and self.place.is_cpu:
            self.read_losses()
            self.progress.show(self.state.step, self.training)

    def checkpoint_is_due(self) -> bool:
        # Writing one waits for the device: on a GPU, where an epoch may be short, rather at the end of it.
        at_once = self.place.is_cpu or self.state.step % len(self.batches) == 0
        seconds = self.settings.checkpoint_seconds * (1 if at_once else MID_EPOCH_PATIENCE)
        return time.perf_counter() - self._saved_at >= seconds and self.state.step < self.schedule.steps

    def save(self) -> None:
        """Writes a checkpoint, in the first process."""
        self.read_losses()
        if self._steps_log is not None:
            if not nn.utils.get_total_norm(list(self.network.parameters())).isfinite():  # as the next loss would be
                raise self._not_finite("weights are no longer finite", self.state.step)
            self._steps_log.flush()
            self._files.save(self.state, {"network": self.network.state_dict(), **self.learner.state_dict()})
        self._saved_at = time.perf_counter()

    def _not_finite(self, problem: str, step: int) -> FloatingPointError:
        rate = self.schedule.rate(step - 1)
        advice = "try a lower optim.lr, or schedule.warmup_steps"
        return FloatingPointError(
            f"{self.outputs.name}: {problem} at step {step:,}, learning rate {rate:.3g}; {advice}"
        )

    # --- the end ---

    def result(self) -> PhaseResult:
        """Gives the network the averaged weights, if any, and returns the figures of the phase."""
        state, data, first, last = self.state, self.batches.data, self.state.history[0], self.state.history[-1]
        if self._steps_log is not None:
            self._steps_log.flush()
        momentum = momentum_of(self.network, self.learner.optimizer)
        if self.learner.average is not None:
            self.network.load_state_dict(self.learner.average.network.state_dict())
        views = self._evaluate(self.network, data.views) if data.views > 1 else None
        return PhaseResult(
            start=Evaluation(first["loss"], first["errors"], first["images"]),
            final=Evaluation(last["loss"], last["errors"], last["images"], state.predictions),
            train_loss=last["train_loss"],
            train_error=last["train_error"],
            history=tuple(state.history),
            steps=state.step,
            lr=self.schedule.rate(state.step - 1),
            seconds=state.seconds,
            images_per_second=state.step * self.batches.batch_size / max(state.seconds, 1e-9),
            compiled=self.compiled,
            resumed=state.resumed,
            stretches=tuple(state.stretches),
            gpu_memory=None if self.place.is_cpu else torch.cuda.max_memory_allocated(self.place.engine.device),
            final_views=views,
            momentum=momentum,
        )

    def close(self) -> None:
        """Ends the threads and processes of progress and data."""
        self.progress.close()
        self.step.feed.close()


def evaluate_phase(
    network: nn.Module, data: ImageData, place: Place, log: Log, step: int = 0, views: int = 1
) -> Evaluation:
    """Evaluates ``network`` after ``step`` steps, in the precision of evaluations, and logs the figures.

    All processes use the buffers of the first one.

    Raises:
        FloatingPointError: the network computes a loss that is not finite.
    """
    place.ranks.spread_buffers(network)
    evaluation = evaluate_data(network, data, place.engine.evaluator(), place.ranks, views, place.stop.look)
    if not math.isfinite(evaluation.loss):
        raise FloatingPointError(
            f"the network computes {evaluation.loss} on the {data.evaluated_on} images after {step:,} steps; "
            "check the parent and data.normalize, or try a lower optim.lr"
        )
    if views > 1:
        log(step, f"error_{views}_views", evaluation.error)
    else:
        log(step, "loss", evaluation.loss)
        log(step, "error", evaluation.error)
    return evaluation
