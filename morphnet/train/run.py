"""A whole run: parent, children and controls, one phase after the other, in one directory."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from morphnet.train.anatomy import Anatomy
from morphnet.train.checkpoint import remove_checkpoints
from morphnet.train.description import describe_phase, facts_of_data, final_errors, hparams_of, own_facts
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
from morphnet.train.phase import run_phase
from morphnet.train.plan import PhasePlan
from morphnet.train.shared import shared_phase
from morphnet.train.tensorboard import PhaseLog, write_hparams, write_layout
from morphnet.train.watch import Watch


def run_experiment(
    experiment: Experiment, plans: Sequence[PhasePlan], architecture: Architecture | None, parent: nn.Module | None
) -> list[Record]:
    """Runs every phase that has no record yet, and returns the records of all.

    A phase that was interrupted goes on from its checkpoint. What a finished phase left is never changed. Phases are
    trained in ``experiment.parents``, where other runs find them.

    Args:
        architecture: of the parent, where it is trained here; else it may be None.
        parent: a trained network, where it is not.

    Raises:
        MorphError: a child failed its proof; the report is in the folder of its phase.
        ValueError, FloatingPointError: see :func:`~morphnet.train.phase.run_phase`.
    """
    made_with = environment(experiment.engine.device)  # now: the source tree may change while the run goes on
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
        """The record of a phase, which all processes run if there is none."""
        ranks = self.experiment.ranks
        begun = False
        record: Any = None

        def train(folder: Path, tensorboard: Path) -> Record | None:
            nonlocal begun
            begun = True
            ranks.from_first(lambda: str(folder))
            return self.train(plan, folder, tensorboard)

        if ranks.is_first:
            record = self.find_or_train(plan, train)
            if not begun:
                ranks.from_first(lambda: None)
        else:
            where: str | None = ranks.from_first(lambda: None)
            if where is not None:
                self.train(plan, Path(where), Path(where))
        return ranks.from_first(lambda: record)

    def find_or_train(self, plan: PhasePlan, train: Callable[[Path, Path], Record | None]) -> Record:
        """The record that is there, of this run or of a phase it shares; else what ``train`` makes."""
        experiment, folder = self.experiment, self.folder(plan)
        tensorboard = experiment.run_dir / "tensorboard" / f"phase{plan.folder}"
        if (folder / "record.json").is_file():
            return self.finished_record(plan)
        begun = (folder / "checkpoint.pt").exists()  # while this run did not share its phases
        if plan.schedule is not None and experiment.parents is not None and not begun:
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
        if tensorboard.is_symlink():  # while this run shared its phases
            tensorboard.unlink()
        made = train(folder, tensorboard)
        assert made is not None  # the first process calls this
        return made

    def start(self, plan: PhasePlan, folder: Path) -> nn.Module:
        """The network a phase starts with: made once, then read from its file in ``folder``."""
        experiment = self.experiment
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "start.safetensors"
        if path.is_file():
            return load_network(path)
        if plan.source is None:
            if self.parent is None:
                assert self.architecture is not None
                network: nn.Module = ResNet(self.architecture, generator_for(experiment.seed, "initial weights"))
                metadata_of(network)["lineage"] = []
            else:
                network = self.parent
                metadata_of(network).setdefault("lineage", [])
            metadata_of(network).update(facts_of_data(experiment.data))
        else:
            source = self.finished(plan.source)
            lineage = [
                *metadata_of(source).get("lineage", []),
                {"phase": plan.source.name, "network": network_hash(source)},
            ]
            experiment.engine.place(source)
            if plan.method == "scratch":
                network, lineage = source, []
                initialise(network.cpu(), generator_for(experiment.seed, "scratch", "initial weights"))
                metadata_of(network).clear()
                metadata_of(network).update(facts_of_data(experiment.data))
            elif plan.grows:
                network = _morph(experiment, plan, source, folder)
            else:
                network = _parametric(source) if plan.parametric else source
            if plan.handover.changes_weights:
                network = network.cpu()
                shrink_and_perturb(
                    network, plan.handover, generator_for(experiment.seed, plan.depth, "shrink and perturb")
                )
            metadata_of(network)["lineage"] = lineage
        save_network(network, path)
        return load_network(path)  # as a continued run reads it

    def beginning(self, plan: PhasePlan, network: nn.Module) -> Beginning:
        """Rates and momentum that a phase starts with, and what of its network was there before."""
        handover, ranks = plan.handover, self.experiment.ranks
        if plan.source is None or plan.method == "scratch":
            return Beginning()
        source = self.folder(plan.source)
        shapes = ranks.from_first(lambda: shapes_in(source / "network.safetensors"))
        momentum: Mapping[str, Tensor] = {}
        if handover.momentum == "kept":
            momentum = ranks.from_first(lambda: load_momentum(source))
        return Beginning(kept_parameters(network, shapes), handover.kept_lr, momentum)

    def watch(self, plan: PhasePlan, folder: Path, beginning: Beginning) -> Watch | None:
        """What looks closely at the first steps of a phase after the parent's; None where that is not asked for."""
        experiment = self.experiment
        steps, every = experiment.trainer.watch_steps, experiment.trainer.watch_every
        if not steps or plan.source is None or plan.schedule is None or not experiment.ranks.is_first:
            return None
        key = (experiment.seed, plan.depth, "watch")
        images, _ = calibration_batches(experiment.data, experiment.augmentation, key, 2)[0]
        start = folder / "start.safetensors"
        return Watch(folder / WATCH_FILE, lambda: load_network(start), beginning.kept, images, steps, every)

    def finished(self, plan: PhasePlan) -> nn.Module:
        """The network a finished phase left.

        Raises:
            ValueError: it is not the one of its record.
        """
        record, path = self.finished_record(plan), self.folder(plan) / "network.safetensors"
        try:
            network = load_network(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}; {self.advice(plan, record)}") from error
        if network_hash(network) != record.lineage.network:
            what = f"{path} is not the network that its record.json describes"
            raise ValueError(f"{what}; {self.advice(plan, record)}")
        return network

    def finished_record(self, plan: PhasePlan) -> Record:
        """The record a finished phase left.

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
        """Runs one phase in ``folder``, going on where it was interrupted; the first process returns its record."""
        experiment, ranks = self.experiment, self.experiment.ranks
        if experiment.data.unreadable is not None:
            experiment.data.unreadable.begin(folder / UNREADABLE_FILE)
        network = ranks.network_from_first(lambda: self.start(plan, folder))
        started = datetime.datetime.now(datetime.UTC)
        start_hash = network_hash(network)
        beginning = self.beginning(plan, network)
        if plan.linear:
            first = self.folder(self.plans[0])
            hold_slopes(network, ranks.from_first(lambda: shapes_in(first / "network.safetensors")))
        key = (experiment.seed, plan.depth)  # a child and its controls see the same images in the same order
        batches = train_batches(experiment.data, experiment.batch_size, experiment.augmentation, key)
        with contextlib.closing(
            PhaseLog(tensorboard, experiment.data.evaluated_on, plan.offset, writes=ranks.is_first)
        ) as log:
            if ranks.is_first and plan.is_proved and not (folder / "checkpoint.pt").exists():
                _show_morph(log, folder)
            start = folder / "start.safetensors"
            result = run_phase(
                network,
                batches,
                plan.schedule,
                experiment.optimisation,
                experiment.engine,
                name=plan.name,
                log=log,
                folder=folder,
                identity=phase_hash(experiment, plan),
                checkpoint_seconds=experiment.trainer.checkpoint_seconds,
                evaluate_every=experiment.trainer.evaluate_every,
                ranks=ranks,
                sync_bn=experiment.trainer.sync_bn,
                interruption=self.interruption,
                beginning=beginning,
                watch=self.watch(plan, folder, beginning),
                anatomy=Anatomy(beginning.kept, lambda: load_network(start)),
                made_with=self.made_with,
            )
        if not ranks.is_first:
            return None
        network.eval()
        save_network(network, folder / "network.safetensors")
        momentum = result.momentum or (experiment.parent_momentum if plan.source is None else {})
        if momentum:
            save_momentum(momentum, folder)
        record = describe_phase(experiment, self.made_with, plan, network, result, start_hash, started)
        outcomes = write_outcomes(folder, experiment.data, result.final, result.final_views)
        record = write_record(replace(record, outcomes=outcomes), folder / "record.json")
        remove_checkpoints(folder)
        return record


def _show_morph(log: PhaseLog, folder: Path) -> None:
    """The proof of a morph as text and its modules as a picture, in TensorBoard."""
    from morphnet.report.modules import draw_morph, morph_in_words

    try:
        report = json.loads((folder / "morph_report.json").read_text())
    except (OSError, ValueError):  # a start that was made before there was one
        return
    log.text("morph/proof", morph_in_words(report))
    figure = draw_morph(report, columns=1)  # TensorBoard shows pictures narrow
    if figure is not None:
        log.picture("morph/module", figure)


def _parametric(network: nn.Module) -> ResNet:
    assert isinstance(network, ResNet)  # plan_phases refuses this control for any other
    return with_parametric_activations(network)


def _morph(experiment: Experiment, plan: PhasePlan, source: nn.Module, folder: Path) -> nn.Module:
    key, count = (experiment.seed, plan.depth, "calibration"), experiment.morphing.calibration_batches
    batches = calibration_batches(experiment.data, experiment.augmentation, key, count)
    found: dict[str, Any] = {}
    try:
        child, report = morph_network(
            source, plan.layers or plan.morph or "", calibration=batches, **morph_settings(experiment, plan)
        )
        found = report.to_dict()
    except MorphError as error:
        found = error.report.to_dict()
        raise
    except InexactError as error:
        found = {"passed": False, "failures": [str(error)]}
        raise
    finally:
        if found and plan.is_proved:
            write_whole(folder / "morph_report.json", (json.dumps(found, indent=1) + "\n").encode())
    if not plan.is_proved:
        before = {name for name, _ in source.named_modules()}
        generator = generator_for(experiment.seed, plan.depth, plan.method, "initial weights")
        initialise(child.cpu(), generator, lambda name: name not in before)
        return child
    print(report, flush=True)
    return child
