"""What a command is going to run and how long that will take here: ``dry_run=true``, and at the start of a sweep."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from morphnet.cli.compose import to_dataclass
from morphnet.cli.done import done_records
from morphnet.cli.output import short
from morphnet.cli.prepare import Prepared, prepare
from morphnet.cli.threads import set_threads
from morphnet.config import TrainConfig
from morphnet.train import choose_engine
from morphnet.train.estimate import Estimator, PhaseEstimate
from morphnet.train.key import phase_hash
from morphnet.train.plan import PhasePlan
from morphnet.train.shared import find_shared

HOW = "measured on a few steps of each network, beside whatever else runs now"


def describe_run(prepared: Prepared) -> str:
    """Every phase of one run: what it is, what it costs, how long it will take here."""
    from morphnet.report.table import write_cells

    experiment = prepared.experiment
    estimates = Estimator().phases(experiment, prepared.plans, prepared.architecture, prepared.parent)
    done = _done_phases(prepared)
    parent = estimates[0].macs
    header = ["phase", "network", "parameters", "FLOP (million)", "rel. FLOP", "steps", "images/s", "time here"]
    body = [
        [
            e.plan.name,
            e.plan.label,
            f"{e.parameters:,}",
            f"{e.macs / 1e6:,.1f}" if e.macs >= 1e7 else f"{e.macs / 1e6:.3f}",
            f"{e.macs / parent:.2f}x",
            f"{e.steps:,}" if e.steps else "given",
            _speed(e.speed.training) if e.steps else "",
            done.get(e.plan.folder) or in_words(e.seconds),
        ]
        for e in estimates
    ]
    total = sum(e.seconds for e in estimates if e.plan.folder not in done)
    device = f"{str(experiment.engine.precision).removeprefix('torch.')} on {experiment.engine.device}"
    return "\n".join(
        [
            f"{short(experiment.run_dir)}: {prepared.chain}; {device}",
            write_cells(header, body),
            *_summary(total, HOW, _compiled(prepared, estimates)),
            "nothing was run: dry_run=true",
        ]
    )


def describe_sweep(config: DictConfig, jobs: Sequence[Sequence[str]]) -> tuple[str, int]:
    """Every experiment of a sweep, and how long all its jobs will take here, one after the other.

    Also how many of them could not be estimated: those cannot run.

    Args:
        config: of the sweep.
        jobs: the overrides of each job.
    """
    from morphnet.report.table import write_cells

    estimator, loaded, phases = Estimator(), {}, set()  # type: ignore[var-annotated]
    lines: dict[tuple[str, str], list[float]] = {}  # runs, phases, steps, seconds
    unknown = []
    compiled: list[str] = []
    waiting = [(number, job) for number, job in enumerate(jobs) if not _is_done(config, job, number)]
    if len(waiting) < len(jobs):
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs are done already", flush=True)
    if waiting:
        print(f"how long {len(waiting)} jobs will take here: measuring a few steps of each network ...", flush=True)
    for number, overrides in waiting:
        try:
            prepared = _prepared(config, overrides, number, loaded)
            set_threads(prepared.experiment.threads)  # as the job will
            estimates = estimator.phases(prepared.experiment, prepared.plans, prepared.architecture, prepared.parent)
        except Exception as error:  # the job itself will say so, and the others go on
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            unknown.append(f"  {' '.join(overrides)}: {first[:200]}")
            continue
        done = _done_phases(prepared)
        for plan in prepared.plans:
            shared = (_shares(prepared, plan), phase_hash(prepared.experiment, plan))
            if shared[0] is not None and shared in phases:
                done.setdefault(plan.folder, "shared")
            phases.add(shared)
        left = [e for e in estimates if e.plan.folder not in done]
        row = lines.setdefault((prepared.experiment.name, prepared.chain), [0, 0, 0, 0.0])
        for i, value in enumerate((1, len(left), sum(e.steps for e in left), sum(e.seconds for e in left))):
            row[i] += value
        compiled = compiled or _compiled(prepared, left)
    header = ["experiment", "phases", "runs", "phases to train", "steps", "time here"]
    body = [[*key, f"{r[0]:.0f}", f"{r[1]:.0f}", f"{r[2]:,.0f}", in_words(r[3])] for key, r in lines.items()]
    total = sum(row[3] for row in lines.values())
    said = []
    if body:
        said = [write_cells(header, body), *_summary(total, f"one after the other, {HOW}", compiled)]
    if unknown:
        said += [f"{len(unknown)} of {len(jobs)} jobs cannot be estimated:", *unknown]
    return "\n".join(said), len(unknown)


def in_words(seconds: float) -> str:
    """A length of time as a person says it: ``8 s``, ``12 min``, ``5 h 20 min``, ``3 days 4 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s" if seconds else "none"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 1 else "below 1"


def _summary(seconds: float, how: str, compiled: list[str]) -> list[str]:
    if not seconds:
        return ["all of it is done"]
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = [f"the machine does other things now (load {load:.0f} on {cores} cores): alone it is faster"]
    return [f"about {in_words(seconds)} here, {how}", *(busy if load > cores + 1 else []), *compiled]


@contextlib.contextmanager
def _job(config: DictConfig, overrides: Sequence[str], number: int) -> Iterator[tuple[DictConfig, Path]]:
    """One job of a sweep, composed as its launcher will compose it, and the directory of its run."""
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance().config_loader()
    composed = hydra.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.num, composed.hydra.job.id = number, f"job_{number}"
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(composed)
    try:
        run_dir = Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
        with open_dict(composed):
            del composed["hydra"]
        yield composed, run_dir
    finally:
        HydraConfig.instance().cfg = before


def _prepared(config: DictConfig, overrides: Sequence[str], number: int, loaded: dict[str, Any]) -> Prepared:
    with _job(config, overrides, number) as (composed, run_dir):
        train = to_dataclass(composed, TrainConfig)
        engine = choose_engine(train.device, train.precision, train.trainer.compile, train.trainer.cuda_graph)
        recipe = HydraConfig.get().runtime.choices.get("recipe")
        return prepare(composed, train, run_dir, recipe, engine, loaded=loaded)


def _is_done(config: DictConfig, overrides: Sequence[str], number: int) -> bool:
    """Whether a job has nothing left to do, as the files of its run say."""
    try:
        with _job(config, overrides, number) as (composed, run_dir):
            return done_records(composed, run_dir) is not None
    except Exception:  # the job itself will say so
        return False


def _done_phases(prepared: Prepared) -> dict[str, str]:
    """Folders of phases that need no training any more, and why."""
    experiment = prepared.experiment
    phases = experiment.run_dir / "phases"
    found = {p.folder: "done" for p in prepared.plans if (phases / p.folder / "record.json").is_file()}
    for plan in prepared.plans:
        parents = _shares(prepared, plan)
        if parents is not None and find_shared(parents, phase_hash(experiment, plan)) is not None:
            found.setdefault(plan.folder, "trained already")
    return found


def _shares(prepared: Prepared, plan: PhasePlan) -> Path | None:
    """Where other runs find the phase; None where they do not."""
    return prepared.experiment.parents if plan.schedule is not None else None


def _compiled(prepared: Prepared, estimates: Sequence[PhaseEstimate]) -> list[str]:
    """One line if phases are going to be compiled, which the probe is not."""
    experiment = prepared.experiment
    count = sum(bool(e.steps) and experiment.engine.compiles(e.steps, experiment.batch_size) for e in estimates)
    return ["long phases are compiled, a minute for each network at first, and run faster than that"] if count else []
