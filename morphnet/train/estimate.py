"""How long phases take on this machine, from a few measured steps of each network."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from morphnet.data import evaluation_batches, train_batches
from morphnet.flops import count_macs, count_parameters
from morphnet.nn.mode import evaluation_mode
from morphnet.nn.resnet import Architecture
from morphnet.store import describe_network
from morphnet.train.average import WeightAverage
from morphnet.train.evaluate import evaluate
from morphnet.train.experiment import Experiment
from morphnet.train.growth import network_like
from morphnet.train.optimizer import make_optimizer
from morphnet.train.plan import PhasePlan
from morphnet.train.step import Learner, TrainStep, kept_random_state

#: Steps of each network that are measured after one that is not: the fewest, the most, and the seconds after which no
#: more than the fewest are made. The median is used, since a busy machine delays some of them.
FEWEST_STEPS, PROBE_STEPS, PROBE_SECONDS = 3, 5, 1.0
#: Forward passes whose shortest sets the number of images in a measured step on the CPU, and the fewest images.
FORWARDS, FEWEST_IMAGES = 3, 8
#: Images of an evaluation that are measured.
EVALUATED = 128
#: The longest that a measured step should take; it has fewer images otherwise.
STEP_SECONDS = 1.0


@dataclass(frozen=True)
class Speed:
    """Images a second, in training and in evaluation over one view."""

    training: float
    evaluation: float


@dataclass(frozen=True)
class PhaseEstimate:
    """The cost of a phase.

    Attributes:
        steps: iterations; 0 where the network is only evaluated.
        seconds: of training and evaluation, by the measured speed.
    """

    plan: PhasePlan
    macs: int
    parameters: int
    steps: int
    speed: Speed
    seconds: float


class Estimator:
    """Measures each network once, however many phases train it."""

    def __init__(self) -> None:
        self._speeds: dict[str, Speed] = {}

    def __len__(self) -> int:
        """The number of networks that were measured."""
        return len(self._speeds)

    def phases(
        self,
        experiment: Experiment,
        plans: Sequence[PhasePlan],
        architecture: Architecture | None,
        parent: nn.Module | None,
    ) -> list[PhaseEstimate]:
        """An estimate for each of ``plans``, without training.

        Args:
            architecture: of the parent, where none is given.
        """
        networks: dict[str, nn.Module] = {}
        found = []
        batches = train_batches(experiment.data, experiment.batch_size, experiment.augmentation, ("estimate",))
        for plan in plans:
            network = network_like(experiment, plan, networks, architecture, parent)
            networks[plan.folder] = network
            macs, parameters = count_macs(network, (1, *experiment.data.input_size)), count_parameters(network)
            speed = self._speed(experiment, network)
            evaluations = 1 + -(-plan.steps // (len(batches) * experiment.trainer.evaluate_every))
            views = experiment.data.views if experiment.data.views > 1 else 0
            images = len(experiment.data.test) * (evaluations + views)
            seconds = plan.steps * experiment.batch_size / speed.training + images / speed.evaluation
            found.append(PhaseEstimate(plan, macs, parameters, plan.steps, speed, seconds))
        return found

    def _speed(self, experiment: Experiment, network: nn.Module) -> Speed:
        described = [describe_network(network), list(experiment.data.input_size), experiment.batch_size]
        more = [str(experiment.engine), experiment.ranks.count, str(experiment.augmentation), torch.get_num_threads()]
        key = json.dumps([*described, *more, str(experiment.optimisation)], default=str)
        if key not in self._speeds:
            self._speeds[key] = measure_speed(experiment, network)
        return self._speeds[key]


def measure_speed(experiment: Experiment, network: nn.Module) -> Speed:
    """The speed of a copy of ``network``: eager training steps (or replays of a graph), and evaluation.

    One of several processes is measured on its share of a batch, and counts for all that have a GPU of their own.
    """
    network, data = copy.deepcopy(network), experiment.data
    engine = experiment.engine.place(network)
    images, labels = next(iter(evaluation_batches(data)))
    few = images[:8]
    with evaluation_mode(network), torch.inference_mode(), engine.autocast():
        network(engine.place_images(few))
        seconds = []
        for _ in range(FORWARDS):
            started = time.perf_counter()
            network(engine.place_images(few)).sum().item()
            seconds.append(time.perf_counter() - started)
    share = max(1, experiment.batch_size // experiment.ranks.count)
    probed = share
    if engine.device.type == "cpu":
        probed = min(share, max(FEWEST_IMAGES, int(STEP_SECONDS * len(few) / (3 * min(seconds)))))
    with kept_random_state(engine.device):
        training = _training_speed(replace(experiment, engine=engine), network, probed)
    batch = (images[:EVALUATED], labels[:EVALUATED])
    if engine.device.type == "cuda":
        training *= experiment.ranks.count
        evaluate(network, [batch], engine.evaluator())  # the first call chooses and loads kernels
    started = time.perf_counter()
    evaluate(network, [batch], engine.evaluator())
    return Speed(training, min(EVALUATED, len(images)) / (time.perf_counter() - started))


def _seconds_of(step: TrainStep, row: int) -> float:
    """The time of a step, including that to fetch its result."""
    started = time.perf_counter()
    step.run(row, 1e-9)
    step.measured(row, row + 1)
    return time.perf_counter() - started


def _training_speed(experiment: Experiment, network: nn.Module, images: int) -> float:
    engine, settings = experiment.engine, experiment.optimisation
    fewer = train_batches(experiment.data, images, experiment.augmentation, ("estimate",))
    average = WeightAverage(network, settings.ema) if settings.ema else None
    optimizer = make_optimizer(network, 1e-9, settings)
    step = TrainStep(Learner(network.train(), optimizer, engine, settings.label_smoothing, average), fewer)
    try:
        step.load(0)
        if engine.captures(experiment.ranks.count):
            step.try_to_capture()
        step.run(0, 1e-9)
        step.measured(0, 1)
        seconds: list[float] = []
        for row in itertools.islice(range(1, len(fewer)), PROBE_STEPS):
            if engine.device.type == "cpu" and len(seconds) >= FEWEST_STEPS and sum(seconds) > PROBE_SECONDS:
                break
            seconds.append(_seconds_of(step, row))
        if not seconds:  # the data are one batch
            step.load(0)
            seconds.append(_seconds_of(step, 0))
        return images / statistics.median(seconds)
    finally:
        step.feed.close()
