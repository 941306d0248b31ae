"""A whole run: parent, children and controls, one phase after the other, in one directory."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from morphnet.data import calibration_batches, generator_for, train_batches
from morphnet.data.files import UNREADABLE_FILE
from morphnet.morph import InexactError, MorphError, morph_network
from morphnet.nn.initialise import initialise
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture, ResNet, with_parametric_activations
from morphnet.report.outcomes import write_outcomes
from morphnet.report.record import WATCH_FILE, Record, environment, read_record, write_record
from morphnet.store import load_network, network_hash, save_network, write_whole
from morphnet.train.checkpoint import remove_checkpoints
from morphnet.train.description import describe_phase, facts_of_data, final_errors, hparams_of, own_facts
from morphnet.train.diagnostics import Diagnostics, FirstSteps
from morphnet.train.experiment import Experiment
from morphnet.train.growth import morph_settings
from morphnet.train.handover import (
    Beginning,
    kept_parameters,
    load_momentum,
    save_momentum,
    shapes_in,
    shrink_and_perturb,
)
from morphnet.train.interruption import Interruption
from morphnet.train.key import describe_key, phase_hash
from morphnet.train.linear import hold_slopes
from morphnet.train.loop import run_phase
from morphnet.train.phase import Outputs, PhaseSettings, Place
from morphnet.train.plan import PhasePlan
from morphnet.train.progress import Heartbeat
from morphnet.train.shared import shared_phase
from morphnet.train.tensorboard import PhaseLog, write_hparams, write_layout


def run_experiment(
    experiment: Experiment, plans: Sequence[PhasePlan], architecture: Architecture | None, parent: nn.Module | None
) -> list[Record]:
    """Runs every phase that has no record yet, and returns the records of all.

    An interrupted phase continues from its checkpoint. The files of a finished phase are never changed. Phases are
    trained in ``experiment.parents``, where other runs find them.

    Args:
        architecture: of a parent that is trained here; else it may be None.
        parent: a parent that is trained already.

    Raises:
        MorphError: a child failed its proof; the report is in the folder of its phase.
        ValueError, FloatingPointError: see :func:`~morphnet.train.loop.run_phase`.
    """
    made_with = environment(experiment.engine.device)  # now: the source tree may change during the run
    with Interruption(experiment.ranks) as interruption:
        run = _Run(experiment, plans, architecture, parent, made_with, interruption)
        tensorboard = experiment.run_dir / "tensorboard"
        if experiment.ranks.is_first:
            write_layout(tensorboard, experiment.data.evaluated_on)
        records = [run.record(plan) for plan in plans]
        if experiment.ranks.is_first:
            write_hparams(tensorboard, hparams_of(experiment, plans), final_errors(records))
        return records


@dataclass(frozen=True)
class _Run:
    """A run that is under way."""

    experiment: Experiment
    plans: Sequence[PhasePlan]
    architecture: Architecture | None
    parent: nn.Module | None
    made_with: dict[str, Any]
    interruption: Interruption

    def folder(self, plan: PhasePlan) -> Path:
        return self.experiment.run_dir / "phases" / plan.folder

    def record(self, plan: PhasePlan) -> Record:
        """The record of a phase; all processes train it together if there is none.

        The first process alone looks for a record and writes files; the others receive a message, its type says which::

            first process                                     other processes
            has a record, or waits for another run's          wait for a message
            has none: sends the folder         -- Path -->    train there with the first, then wait again
              all train: run_phase
              writes network and record
            sends the record                   -- Record ->    continue with the next phase
        """
        ranks = self.experiment.ranks
        if ranks.is_first:
            record = self.find_or_train(plan)
            return ranks.from_first(lambda: record)
        message: Path | Record = ranks.from_first(Path)
        if isinstance(message, Path):
            self.train(plan, message, message)
            message = ranks.from_first(Path)
        assert isinstance(message, Record)
        return message

    def find_or_train(self, plan: PhasePlan) -> Record:
        """The record of this run or of a phase it shares; else trains the phase. In the first process."""
        experiment, folder = self.experiment, self.folder(plan)
        tensorboard = experiment.run_dir / "tensorboard" / f"phase{plan.folder}"

        def train(folder: Path, tensorboard: Path) -> Record:
            experiment.ranks.from_first(lambda: folder)
            record = self.train(plan, folder, tensorboard)
            assert record is not None  # this is the first process
            return record

        if (folder / "record.json").is_file():
            return self.finished_record(plan)
        unshared = (folder / "checkpoint.pt").exists()  # begun while this run did not share its phases
        if plan.schedule is not None and experiment.parents is not None and not unshared:
            description, own = describe_key(experiment, plan), own_facts(experiment, plan)
            parent = None
            if plan.source is not None and plan.method != "scratch":
                parent = self.finished_record(plan.source).lineage.network
            record = shared_phase(experiment.parents, description, own, parent, folder, tensorboard, train)
            if experiment.trainer.watch_steps and plan.source is not None and not (folder / WATCH_FILE).is_file():
                print(
                    f"{plan.name}: trained without trainer.watch_steps; share_parent=false trains it anew", flush=True
                )
            return record
        if tensorboard.is_symlink():  # from when this run shared its phases
            tensorboard.unlink()
        return train(folder, tensorboard)

    def start(self, plan: PhasePlan, folder: Path) -> Path:
        """The file of the network that a phase starts with; made once."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "start.safetensors"
        if not path.is_file():
            save_network(self.root() if plan.source is None else self.successor(plan, folder), path)
        return path

    def root(self) -> nn.Module:
        """The network of the first phase: the given parent, or a new one."""
        network = self.parent
        if network is None:
            assert self.architecture is not None
            network = ResNet(self.architecture, generator_for(self.experiment.seed, "initial weights"))
        metadata_of(network).setdefault("lineage", [])
        metadata_of(network).update(facts_of_data(self.experiment.data))
        return network

    def successor(self, plan: PhasePlan, folder: Path) -> nn.Module:
        """The network of a later phase, made from that of its source."""
        experiment, seed = self.experiment, self.experiment.seed
        assert plan.source is not None
        network = self.finished(plan.source)
        ancestor = {"phase": plan.source.name, "network": network_hash(network)}
        lineage = [*metadata_of(network).get("lineage", []), ancestor]
        experiment.engine.place(network)
        if plan.method == "scratch":
            initialise(network.cpu(), generator_for(seed, "scratch", "initial weights"))
            metadata_of(network).clear()
            metadata_of(network).update(facts_of_data(experiment.data))
            lineage = []
        elif plan.grows:
            network = _morph(experiment, plan, network, folder)
        elif plan.parametric:
            assert isinstance(network, ResNet)  # plan_phases refuses this control for any other
            network = with_parametric_activations(network)
        if plan.handover.changes_weights:
            network = network.cpu()
            shrink_and_perturb(network, plan.handover, generator_for(seed, plan.depth, "shrink and perturb"))
        metadata_of(network)["lineage"] = lineage
        return network

    def beginning(self, plan: PhasePlan, network: nn.Module) -> Beginning:
        """Rates and momentum that a phase starts with, and which of its parameters existed before."""
        handover, ranks = plan.handover, self.experiment.ranks
        if plan.source is None or plan.method == "scratch":
            return Beginning()
        source = self.folder(plan.source)
        shapes = ranks.from_first(lambda: shapes_in(source / "network.safetensors"))
        momentum: Mapping[str, Tensor] = {}
        if handover.momentum == "kept":
            momentum = ranks.from_first(lambda: load_momentum(source))
        return Beginning(kept_parameters(network, shapes), handover.kept_lr, momentum)

    def outputs(self, plan: PhasePlan, folder: Path, log: PhaseLog, kept: frozenset[str]) -> Outputs:
        """What the phase writes; diagnostics in the first process alone."""
        experiment = self.experiment
        outputs = Outputs(plan.name, folder, log, phase_hash(experiment, plan), made_with=self.made_with)
        if not experiment.ranks.is_first:
            return outputs
        start = partial(load_network, folder / "start.safetensors")
        steps, every, first_steps = experiment.trainer.watch_steps, experiment.trainer.watch_every, None
        if steps and plan.source is not None and plan.schedule is not None:
            key = (experiment.seed, plan.depth, "watch")
            images, _ = calibration_batches(experiment.data, experiment.augmentation, key, 2)[0]
            first_steps = FirstSteps(folder / WATCH_FILE, start, kept, images, steps, every)
        return replace(outputs, diagnostics=Diagnostics(kept, start), first_steps=first_steps)

    def finished(self, plan: PhasePlan) -> nn.Module:
        """The network of a finished phase.

        Raises:
            ValueError: it is not the one of its record.
        """
        record, path = self.finished_record(plan), self.folder(plan) / "network.safetensors"
        try:
            network = load_network(path)
            if network_hash(network) != record.lineage.network:
                raise ValueError(f"{path} is not the network that its record.json describes")
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}; {self.advice(plan, record)}") from error
        return network

    def finished_record(self, plan: PhasePlan) -> Record:
        """The record of a finished phase.

        Raises:
            ValueError: it cannot be read, its network is gone, or it started from another network than its source is.
        """
        folder = self.folder(plan)
        try:
            record = read_record(folder / "record.json")
        except ValueError as error:
            raise ValueError(f"{error}; {self.advice(plan, None)}") from error
        if not (folder / "network.safetensors").is_file():
            raise ValueError(f"{folder / 'network.safetensors'} is gone; {self.advice(plan, record)}")
        if plan.source is None or plan.method == "scratch":
            return record
        source = self.folder(plan.source)
        if record.started_from != read_record(source / "record.json").lineage.network:
            raise ValueError(f"{folder} started from another network than {source} holds; {self.advice(plan, record)}")
        return record

    def advice(self, plan: PhasePlan, record: Record | None) -> str:
        """What to try where the files of a finished phase are damaged; those of a shared phase are links."""
        folders, parents = [str(self.folder(plan))], self.experiment.parents
        if parents is not None and record is not None and record.shared_parent is not None:
            folders.append(record.shared_parent["found_in"])
        which = f"folder{'s' if folders[1:] else ''} {' and '.join(folders)}"
        return f"delete the {which}, and the same command trains it again"

    def train(self, plan: PhasePlan, folder: Path, tensorboard: Path) -> Record | None:
        """Runs one phase in ``folder``, continuing where it was interrupted; the first process returns its record."""
        experiment, ranks = self.experiment, self.experiment.ranks
        if experiment.data.unreadable is not None:
            experiment.data.unreadable.begin(folder / UNREADABLE_FILE)
        with Heartbeat(lambda: f"{plan.name}: preparing", ranks.is_first):
            network = ranks.network_from_first(lambda: self.start(plan, folder))
        started, start_hash = datetime.datetime.now(datetime.UTC), network_hash(network)
        beginning = self.beginning(plan, network)
        if plan.linear:
            first = self.folder(self.plans[0])
            hold_slopes(network, ranks.from_first(lambda: shapes_in(first / "network.safetensors")))
        key = (experiment.seed, plan.depth)  # a child and its controls see the same images in the same order
        batches = train_batches(experiment.data, experiment.batch_size, experiment.augmentation, key)
        trainer = experiment.trainer
        every, seconds = trainer.evaluate_every, trainer.checkpoint_seconds
        settings = PhaseSettings(experiment.optimisation, beginning, every, seconds, trainer.sync_bn)
        place = Place(experiment.engine, self.interruption)
        with contextlib.closing(
            PhaseLog(tensorboard, experiment.data.evaluated_on, plan.offset, writes=ranks.is_first)
        ) as log:
            if ranks.is_first and plan.is_proved and not (folder / "checkpoint.pt").exists():
                _show_morph(log, folder)
            outputs = self.outputs(plan, folder, log, beginning.kept)
            result = run_phase(network, batches, plan.schedule, settings, place, outputs)
        if not ranks.is_first:
            return None
        network.eval()
        save_network(network, folder / "network.safetensors")
        momentum = result.momentum or (experiment.parent_momentum if plan.source is None else {})
        if momentum:
            save_momentum(momentum, folder)
        record = describe_phase(experiment, self.made_with, plan, network, result, start_hash, started)
        outcomes = write_outcomes(folder, experiment.data, result.final, result.final_views)
        record = replace(record, outcomes=outcomes, file=folder / "record.json")
        write_record(record, record.file)
        remove_checkpoints(folder)
        return record


def _show_morph(log: PhaseLog, folder: Path) -> None:
    """The proof of a morph as text and its modules as a picture, in TensorBoard."""
    from morphnet.report.modules import draw_morph, morph_in_words

    report = json.loads((folder / "morph_report.json").read_text())
    log.text("morph/proof", morph_in_words(report))
    figure = draw_morph(report, columns=1)  # TensorBoard shows pictures narrow
    if figure is not None:
        log.picture("morph/module", figure)


def _morph(experiment: Experiment, plan: PhasePlan, source: nn.Module, folder: Path) -> nn.Module:
    key, count = (experiment.seed, plan.depth, "calibration"), experiment.morphing.calibration_batches
    batches = calibration_batches(experiment.data, experiment.augmentation, key, count)

    def write(report: Mapping[str, Any]) -> None:
        if plan.is_proved:
            write_whole(folder / "morph_report.json", (json.dumps(report, indent=1) + "\n").encode())

    try:
        child, report = morph_network(
            source, plan.layers or plan.morph or "", calibration=batches, **morph_settings(experiment, plan)
        )
    except MorphError as error:
        write(error.report.to_dict())
        raise
    except InexactError as error:
        write({"passed": False, "failures": [str(error)]})
        raise
    write(report.to_dict())
    if not plan.is_proved:
        before = {name for name, _ in source.named_modules()}
        generator = generator_for(experiment.seed, plan.depth, plan.method, "initial weights")
        initialise(child.cpu(), generator, lambda name: name not in before)
        return child
    print(f"{plan.name}: {report}" if plan.role == "control" else report, flush=True)
    return child
