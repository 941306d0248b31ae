"""The training loop of one phase: a network and a schedule in, the trained network and its figures out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from morphnet.data import Batches
from morphnet.train.interruption import Interrupted
from morphnet.train.phase import Outputs, Phase, PhaseResult, PhaseSettings, Place, evaluate_phase
from morphnet.train.progress import Heartbeat
from morphnet.train.schedule import Schedule
from morphnet.train.step import kept_random_state

#: Steps on GPUs between two votes of the processes on whether to stop; nothing waits for a vote.
STEPS_PER_VOTE = 5


def train(phase: Phase) -> None:
    """Evaluates and trains, epoch by epoch, to the end of the schedule."""
    state, schedule, epoch_steps = phase.state, phase.schedule, len(phase.batches)
    while True:
        if phase.evaluation_is_due():  # before the first step, between epochs, after the last step
            phase.evaluate()
        if state.step == schedule.steps:
            break
        epoch, done = divmod(state.step, epoch_steps)
        phase.begin_epoch(epoch, done)
        for _ in range(min(epoch_steps - done, schedule.steps - state.step)):
            phase.step.run(state.step, schedule.rate(state.step))
            state.step += 1
            phase.diagnose()
            phase.place.stop.look()
            phase.show()
            if phase.checkpoint_is_due():
                phase.save()
        phase.read_losses()


def run_phase(
    network: nn.Module,
    batches: Batches,
    schedule: Schedule | None,
    settings: PhaseSettings,
    place: Place,
    outputs: Outputs,
) -> PhaseResult:
    """Trains ``network`` in place; continues from the last whole checkpoint in the folder of ``outputs``.

    A phase that was stopped in any way and is continued in the same arithmetic ends, on the CPU, with the same bits as
    one that was not. Global random generators are seeded for every step, and restored at the end.

    Args:
        schedule: None evaluates the network and leaves it as it is.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
        CheckpointError: there are checkpoints, and none can be used.
        Interrupted: the run was asked to stop; all processes have after the same step, and a checkpoint was written.
        OSError: a file cannot be written; the last checkpoint stays.
    """
    place = replace(place, engine=place.engine.place(network))
    if schedule is None:
        with Heartbeat(lambda: f"{outputs.name}: evaluating", place.ranks.is_first):
            data, log = batches.data, outputs.log
            start = evaluate_phase(network, data, place, log)
            views = evaluate_phase(network, data, place, log, views=data.views) if data.views > 1 else None
        return PhaseResult(start, start, final_views=views)
    if not place.is_cpu:
        torch.cuda.reset_peak_memory_stats(place.engine.device)
    with kept_random_state(place.engine.device):
        phase = Phase(network, batches, schedule, settings, place, outputs)
        try:
            with place.stop.together(1 if place.is_cpu else STEPS_PER_VOTE):
                train(phase)
                return phase.result()
        except Interrupted as stop:
            raise _stopped(phase, stop) from None
        finally:
            phase.close()


def _stopped(phase: Phase, stop: Interrupted) -> Interrupted:
    """Writes a checkpoint, unless a step is half done, and returns the message for the user."""
    step, problem = phase.state.step, stop.args[0]
    if step and not problem:
        phase.save()
        phase.place.ranks.from_first(lambda: None)  # all wait for the first: its device may still need them
    kept = "a checkpoint is written" if step else "nothing is lost"
    message = f"{phase.outputs.name}: stopped at step {step:,} of {phase.schedule.steps:,}; {kept}"
    return Interrupted(stop.signum, problem or message)
