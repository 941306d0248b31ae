"""A phase that is under way, what can happen to it, and what comes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from morphnet.config import OptimConfig
from morphnet.data import Batches
from morphnet.train.anatomy import Anatomy
from morphnet.train.average import WeightAverage
from morphnet.train.checkpoint import Checkpoint, CheckpointFiles
from morphnet.train.engine import Engine
from morphnet.train.handover import Beginning, set_momentum
from morphnet.train.loop import Evaluation, evaluate_together
from morphnet.train.ranks import Ranks
from morphnet.train.schedule import Schedule
from morphnet.train.step import TrainStep, make_optimizer
from morphnet.train.steplog import StepLog
from morphnet.train.stretches import Arithmetic, Stretches
from morphnet.train.watch import Watch

#: Receives (step in the phase, metric, value).
Log = Callable[[int, str, float], None]


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
        stretches: which steps were trained where and how; see :class:`~morphnet.train.stretches.Stretches`.
        gpu_memory: the most that tensors held on this process's GPU, in bytes; None on a CPU.
        momentum: of every parameter at the end, by name; empty where nothing was trained.
    """

    start: Evaluation
    final: Evaluation
    train_loss: float | None
    train_error: float | None
    history: tuple[dict[str, Any], ...]
    steps: int
    lr: float | None
    seconds: float
    images_per_second: float | None
    compiled: bool
    resumed: int
    stretches: tuple[dict[str, Any], ...] = ()
    gpu_memory: int | None = None
    final_views: Evaluation | None = None
    momentum: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)


@dataclass
class Stretch:
    """Sums over the steps since the last evaluation."""

    loss: float = 0.0
    errors: int = 0
    images: int = 0

    def add(self, loss: float, errors: int, images: int) -> None:
        self.loss, self.errors, self.images = self.loss + loss * images, self.errors + errors, self.images + images

    def evaluation(self) -> Evaluation:
        return Evaluation(self.loss / max(self.images, 1), self.errors, max(self.images, 1))


class PhaseState:
    """The state of a phase that is under way, and what can happen to it."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        batches: Batches,
        schedule: Schedule,
        optimisation: OptimConfig,
        engine: Engine,
        log: Log,
        ranks: Ranks,
        look: Callable[[], None],
        beginning: Beginning,
        watch: Watch | None,
        anatomy: Anatomy | None,
    ) -> None:
        self.name, self.network, self.batches, self.schedule = name, network, batches, schedule
        self.engine, self.log, self.ranks, self._look = engine, log, ranks, look
        self.optimisation, self.watch, self.anatomy = optimisation, watch, anatomy
        self.optimizer = make_optimizer(
            network,
            schedule.lr,
            optimisation.momentum,
            optimisation.weight_decay,
            optimisation.nesterov,
            beginning.kept,
            beginning.kept_lr,
        )
        set_momentum(network, self.optimizer, beginning.momentum)
        self.average = WeightAverage(network, optimisation.ema) if optimisation.ema else None
        self.scaler = engine.scaler()
        self.stretch, self.last_train = Stretch(), Stretch().evaluation()
        self.history: list[dict[str, Any]] = []
        self.predictions: Tensor | None = None  # of the last evaluation in it
        self.step = self.measured = self.resumed = 0
        self.seconds = self.seconds_evaluated = 0.0  # of training: so far, and at the last evaluation
        self.stretches, self._stretched = Stretches(), 0.0  # and the seconds of training that they count
        self._clock_started: float | None = None
        self._stepped = False  # in this process

    @property
    def reads_at_will(self) -> bool:
        """Whether losses can be read within an epoch without making a device wait."""
        return self.engine.device.type == "cpu"

    @property
    def in_epoch(self) -> bool:
        """Whether the step lies inside an epoch, and not at its end."""
        return self.step % len(self.batches) > 0

    def evaluation_is_due(self, every: int) -> bool:
        epochs, rest = divmod(self.step, len(self.batches))
        due = self.step == self.schedule.steps or (rest == 0 and epochs % every == 0)
        return due and self.history[-1]["step"] != self.step

    def begin(self) -> None:
        """The evaluation before the first step."""
        start = self.evaluate()
        if self.anatomy is not None:
            self.anatomy.begin(self.network)
        self.look_inside()
        if self.watch is not None:
            self.watch.begin(self.network)
        log_evaluation(self.log, 0, start)
        self.history, self.predictions = [{"step": 0, "epoch": 0, **start.figures()}], start.predictions

    def resume(self, files: CheckpointFiles) -> bool:
        """Takes over the last checkpoint; False if there is none."""
        checkpoint = self.ranks.from_first(files.load)
        if checkpoint is None:
            return False
        self.network.load_state_dict(checkpoint.network)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if self.scaler is not None and checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            self.average.network.load_state_dict(checkpoint.average)
        if self.watch is not None:
            self.watch.resume(checkpoint.step)
        self.stretch = Stretch(*checkpoint.stretch)
        self.step = self.measured = checkpoint.step
        self.history, self.resumed = checkpoint.history, checkpoint.resumed + 1
        self.predictions = checkpoint.predictions
        self.seconds, self.seconds_evaluated = checkpoint.seconds, checkpoint.seconds_evaluated
        self.stretches, self._stretched = Stretches(checkpoint.stretches), checkpoint.seconds
        if self.ranks.is_first:
            print(f"{self.name}: goes on at step {self.step:,} of {self.schedule.steps:,}", flush=True)
        return True

    def prepare(self, model: nn.Module, steps_log: StepLog | None) -> None:
        """Makes the step that trains ``model``, the network as it is called."""
        self.steps_log = steps_log
        self._step = TrainStep(
            model,
            self.batches,
            self.optimizer,
            self.engine,
            self.scaler,
            self.ranks,
            self.optimisation.label_smoothing,
            self.average,
        )
        if self.engine.captures(self.ranks.count):
            self.begin_training()
            self._step.load(0)
            why = self._step.try_to_capture()
            if why:
                print(f"{self.name}: no CUDA graph ({why}); steps run one by one", flush=True)

    def begin_stretch(self, compiled: bool, made_with: Mapping[str, Any]) -> None:
        """From here on steps are done in this process's arithmetic; says so where it was another before."""
        hardware = made_with["hardware"]
        arithmetic = Arithmetic(
            device=self.engine.device.type,
            hardware=hardware.get("gpu") or hardware["cpu"],
            precision=str(self.engine.precision).removeprefix("torch."),
            threads=torch.get_num_threads() if self.engine.device.type == "cpu" else None,
            compiled=compiled,
            cuda_graph=self._step.is_captured,
            torch=str(torch.__version__),
        )
        said = self.stretches.begin(self.step, arithmetic, made_with["commit"])
        if said is not None and self.ranks.is_first:
            print(f"{self.name}: {said}", flush=True)

    def _stretch(self) -> list[dict[str, Any]]:
        """The stretches up to this step."""
        seconds = self.seconds + self._on_clock()
        self.stretches.trained(self.step, seconds - self._stretched, self.batches.batch_size)
        self._stretched = seconds
        return self.stretches.done

    def begin_training(self) -> None:
        """Puts network and model into training mode: with synchronised norms the model is a copy over its tensors."""
        self.network.train()
        self._step.model.train()

    def save(self, files: CheckpointFiles) -> None:
        """Writes a checkpoint, in the first process."""
        self.take_measured()
        if not self.ranks.is_first:
            return
        if not nn.utils.get_total_norm(list(self.network.parameters())).isfinite():  # the next loss would say so
            raise self._not_finite("weights are no longer finite", self.step)
        assert self.steps_log is not None
        self.steps_log.flush()
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group["lr"] = float(group["lr"])
        files.save(
            Checkpoint(
                step=self.step,
                network=self.network.state_dict(),
                optimizer=optimizer,
                scaler={} if self.scaler is None else self.scaler.state_dict(),
                stretch=(self.stretch.loss, self.stretch.errors, self.stretch.images),
                history=self.history,
                seconds=self.seconds + self._on_clock(),
                seconds_evaluated=self.seconds_evaluated,
                resumed=self.resumed,
                average={} if self.average is None else self.average.network.state_dict(),
                stretches=self._stretch(),
                predictions=self.predictions,
            )
        )

    def look_closer(self) -> None:
        """Writes down what the first steps have changed."""
        assert self.watch is not None
        assert self.steps_log is not None
        self.take_measured()
        self.steps_log.flush()
        for metric, value in self.watch.take(self.network, self.step, self.steps_log.path, self.batches.batch_size):
            self.log(self.step, metric, value)
        self.network.train()

    def look_inside(self) -> None:
        """Logs what stands inside the network."""
        if self.anatomy is not None:
            gradients = self.scaler is None and self._stepped  # else they are those of a capture
            for metric, value in self.anatomy.measure(self.network, gradients).items():
                self.log(self.step, metric, value)

    def deliver(self) -> None:
        """Gives the network the averaged weights, where there are any."""
        if self.average is not None:
            self.network.load_state_dict(self.average.network.state_dict())

    @contextmanager
    def clock(self) -> Iterator[None]:
        """What happens within counts as training time."""
        self._clock_started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += self._on_clock()
            self._clock_started = None

    def epoch(self) -> Iterator[int]:
        """Trains to the end of the epoch or of the phase, and comes up after every step."""
        index, row = divmod(self.step, len(self.batches))
        self._step.load(index, row)
        for _ in range(row, len(self.batches)):
            self._step.run(self.step, self.schedule.rate(self.step))
            self._stepped = True
            self.step += 1
            yield self.step
            if self.step == self.schedule.steps:
                return

    def take_measured(self) -> None:
        """Fetches loss and errors of the steps since the last time, which waits for the device.

        Raises:
            FloatingPointError: a loss is not finite; the step is named.
        """
        if self.measured == self.step:
            return
        first = self.measured % len(self.batches)
        found = self._step.measured(first, first + self.step - self.measured)
        rates = [self.schedule.rate(step) for step in range(self.measured, self.step)]
        stretch = replace(self.stretch)
        for i, (loss, errors) in enumerate(found):
            if not math.isfinite(loss):
                raise self._not_finite(f"the loss is {loss}", self.measured + i + 1)
            stretch.add(loss, errors, self.batches.batch_size)
        if self.steps_log is not None:
            self.steps_log.add(self.measured + 1, rates, found)
        self.stretch, self.measured = stretch, self.step

    def _not_finite(self, what: str, step: int) -> FloatingPointError:
        rate = self.schedule.rate(step - 1)
        advice = "try a lower optim.lr, or schedule.warmup_steps"
        return FloatingPointError(f"{self.name}: {what} at step {step:,}, learning rate {rate:.3g}; {advice}")

    def evaluate(self) -> Evaluation:
        network = self.network if self.average is None else self.average.network
        return evaluate_together(network, self.batches.data, self.engine, self.ranks, self.step, self._look)

    def write_down(self, found: Evaluation) -> None:
        """Keeps everything measured since the last evaluation, and begins anew."""
        train = self.last_train = self.stretch.evaluation()
        speed = self.stretch.images / max(self.seconds - self.seconds_evaluated, 1e-9)
        measured = {
            "lr": self.schedule.rate(self.step - 1),
            "train_loss": train.loss,
            "train_error": train.error,
            "images_per_second": round(speed, 1),
        }
        self.look_inside()
        log_evaluation(self.log, self.step, found)
        for metric, value in measured.items():
            self.log(self.step, metric, value)
        epoch = -(-self.step // len(self.batches))
        self.history.append({"step": self.step, "epoch": epoch, **measured, **found.figures()})
        self.predictions = found.predictions
        self.stretch, self.seconds_evaluated = Stretch(), self.seconds

    def close(self) -> None:
        """Ends what decodes images ahead."""
        self._step.feed.close()

    def result(self, compiled: bool, views: Evaluation | None) -> PhaseResult:
        total = len(self.batches.data.test)  # checkpoints did not say so before there were images that are left out
        first, last = (
            Evaluation(entry["loss"], entry["errors"], entry.get("images", total))
            for entry in (self.history[0], self.history[-1])
        )
        return PhaseResult(
            start=first,
            final=replace(last, predictions=self.predictions),
            train_loss=self.history[-1]["train_loss"],
            train_error=self.history[-1]["train_error"],
            history=tuple(self.history),
            steps=self.step,
            lr=self.schedule.rate(self.step - 1),
            seconds=self.seconds,
            images_per_second=self.step * self.batches.batch_size / max(self.seconds, 1e-9),
            compiled=compiled,
            resumed=self.resumed,
            stretches=tuple(self._stretch()),
            gpu_memory=torch.cuda.max_memory_allocated(self.engine.device) if not self.reads_at_will else None,
            final_views=views,
        )

    def _on_clock(self) -> float:
        return 0.0 if self._clock_started is None else time.perf_counter() - self._clock_started


def log_evaluation(log: Log, step: int, found: Evaluation) -> None:
    log(step, "loss", found.loss)
    log(step, "error", found.error)
