"""One phase of training: a network and a schedule in, the trained network and its figures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from morphnet.config import OptimConfig
from morphnet.data import Batches
from morphnet.report.record import environment
from morphnet.train.anatomy import Anatomy
from morphnet.train.checkpoint import CheckpointFiles
from morphnet.train.engine import Engine
from morphnet.train.handover import Beginning, momentum_of
from morphnet.train.interruption import Interrupted, Interruption
from morphnet.train.loop import Evaluation, evaluate_together
from morphnet.train.progress import Heartbeat, Progress
from morphnet.train.ranks import ALONE, Ranks
from morphnet.train.schedule import Schedule
from morphnet.train.state import Log, PhaseResult, PhaseState, log_evaluation
from morphnet.train.step import kept_random_state
from morphnet.train.steplog import StepLog
from morphnet.train.watch import Watch

#: So many times ``checkpoint_seconds`` a checkpoint on a GPU may wait for the end of the epoch.
MID_EPOCH_PATIENCE = 10
#: Steps on GPUs between two votes of the processes on whether to stop; nothing waits for a vote.
STEPS_PER_VOTE = 5


def run_phase(
    network: nn.Module,
    batches: Batches,
    schedule: Schedule | None,
    optimisation: OptimConfig,
    engine: Engine,
    *,
    name: str,
    log: Log,
    folder: Path,
    identity: str = "",
    checkpoint_seconds: float = 30.0,
    evaluate_every: int = 1,
    ranks: Ranks = ALONE,
    sync_bn: bool = False,
    interruption: Interruption | None = None,
    beginning: Beginning | None = None,
    watch: Watch | None = None,
    anatomy: Anatomy | None = None,
    made_with: Mapping[str, Any] | None = None,
) -> PhaseResult:
    """Trains ``network`` in place; goes on from the last whole checkpoint in ``folder`` if there is one.

    A phase that was stopped in any way and is continued in the same arithmetic ends, on the CPU, with the same bits as
    one that was not.
    Global random generators are seeded for every step, and left as they were found.

    Args:
        schedule: None evaluates the network and leaves it as it is.
        log: called at step 0 and after every evaluated epoch, in the first of the ``ranks``.
        folder: where ``checkpoint.pt``, the one before it and ``steps.csv`` are written.
        identity: of the phase; a checkpoint of another one is refused.
        checkpoint_seconds: time between two checkpoints; 0 writes one after every step.
        evaluate_every: epochs between two evaluations; there is always one at the end.
        ranks: the processes that share every batch and every evaluation.
        sync_bn: whether batch normalisation measures the whole batch, on GPUs.
        interruption: of the same ``ranks``, and asked for a signal to stop: a checkpoint is written then, by all
            processes after the same step.
        beginning: rates and momentum it starts with; by default one rate and no momentum.
        watch: writes down what happens in the first steps, in the first of the ``ranks``.
        anatomy: what is measured inside the network at every evaluation, for ``log``.
        made_with: the environment of this process, for the stretches.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        CheckpointError: there are checkpoints, and none can be used.
        Interrupted: the run was asked to stop, and a checkpoint was written.
        OSError: a file cannot be written; the last checkpoint stays.
    """
    engine = engine.place(network)
    if schedule is None:
        with Heartbeat(lambda: f"{name}: evaluating", ranks.is_first):
            start = evaluate_together(network, batches.data, engine, ranks)
            log_evaluation(log, 0, start)
            views = _evaluate_views(network, batches, engine, ranks, 0, log)
        return PhaseResult(start, start, None, None, (), 0, None, 0.0, None, False, 0, final_views=views)
    interruption = interruption or Interruption(ranks)
    if ranks.is_first:
        folder.mkdir(parents=True, exist_ok=True)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
    with kept_random_state(engine.device):
        phase = PhaseState(
            name,
            network,
            batches,
            schedule,
            optimisation,
            engine,
            log,
            ranks,
            interruption.look,
            beginning or Beginning(),
            watch if ranks.is_first else None,
            anatomy if ranks.is_first else None,
        )
        files = CheckpointFiles(folder / "checkpoint.pt", identity)
        resumed = phase.resume(files)
        progress = Progress(name, schedule.steps, batches.batch_size, phase.step, ranks.is_first)
        # Decided by the length of the whole phase, so that a continued phase is computed as it began.
        compiled = engine.compiles(schedule.steps, batches.batch_size)
        model = ranks.parallel(network, engine.device, sync_bn)
        if compiled:
            model = engine.compiled(model)
            print(f"{name}: compiling the network first, about a minute ...", flush=True)
        phase.prepare(model, StepLog(folder / "steps.csv", phase.step) if ranks.is_first else None)
        phase.begin_stretch(compiled, made_with or environment(engine.device))
        try:
            with interruption.together(1 if phase.reads_at_will else STEPS_PER_VOTE):
                if not resumed:
                    progress.doing = "evaluating"
                    phase.begin()
                progress.doing = "compiling" if compiled else "training"
                _train(phase, files, checkpoint_seconds, evaluate_every, interruption, progress)
                momentum = momentum_of(network, phase.optimizer)
                phase.deliver()
                views = _evaluate_views(network, batches, engine, ranks, phase.step, log, interruption.look)
        except Interrupted as stop:
            if phase.step and not stop.args[0]:  # else a step is half done
                phase.save(files)
                ranks.from_first(lambda: None)  # its device may still need the others
            kept = "a checkpoint is written" if phase.step else "nothing is lost"
            message = f"{name}: stopped at step {phase.step:,} of {schedule.steps:,}; {kept}"
            raise Interrupted(stop.signum, stop.args[0] or message) from None
        finally:
            progress.close()
            phase.close()
        return replace(phase.result(compiled, views), momentum=momentum)


def _train(
    phase: PhaseState,
    files: CheckpointFiles,
    checkpoint_seconds: float,
    evaluate_every: int,
    interruption: Interruption,
    progress: Progress,
) -> None:
    saved_at = time.perf_counter()
    phase.begin_training()
    while True:
        if phase.evaluation_is_due(evaluate_every):
            progress.doing = "evaluating"
            found = phase.evaluate()
            with interruption.shield():
                phase.write_down(found)
            progress.evaluated(phase.step, phase.batches.data.evaluated_on, found, phase.last_train)
            progress.doing = "training"
        if phase.step == phase.schedule.steps:
            break
        with phase.clock():
            steps = phase.epoch()
            while True:
                with interruption.shield():
                    goes_on = next(steps, None) is not None
                if not goes_on:
                    break
                if phase.watch is not None and phase.watch.is_due(phase.step):
                    with interruption.shield():  # before any checkpoint of this step
                        phase.look_closer()
                interruption.look()
                if progress.step(phase.step) and phase.reads_at_will:
                    with interruption.shield():
                        phase.take_measured()
                    progress.show(phase.step, phase.stretch.evaluation())
                # Writing one waits for the device: on a GPU, where an epoch may be short, rather at the end of it.
                patience = 1 if phase.reads_at_will or not phase.in_epoch else MID_EPOCH_PATIENCE
                waited = time.perf_counter() - saved_at
                if waited >= patience * checkpoint_seconds and phase.step < phase.schedule.steps:
                    with interruption.shield():
                        phase.save(files)
                    saved_at = time.perf_counter()
            with interruption.shield():
                phase.take_measured()
    if phase.steps_log is not None:
        phase.steps_log.flush()


def _evaluate_views(
    network: nn.Module,
    batches: Batches,
    engine: Engine,
    ranks: Ranks,
    step: int,
    log: Log,
    look: Callable[[], None] = lambda: None,
) -> Evaluation | None:
    if batches.data.views == 1:
        return None
    found = evaluate_together(network, batches.data, engine, ranks, step, look, batches.data.views)
    log(step, f"error_{batches.data.views}_views", found.error)
    return found
