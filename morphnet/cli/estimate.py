"""What a command will run and how long it takes here: ``dry_run=true``, and at the start of a sweep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from morphnet.cli.compose import Job, compose_job
from morphnet.cli.done import done_records
from morphnet.cli.output import short
from morphnet.cli.prepare import Prepared, prepare
from morphnet.cli.threads import set_threads
from morphnet.data import ImageData
from morphnet.train import choose_engine
from morphnet.train.estimate import Estimator, PhaseEstimate
from morphnet.train.key import phase_hash
from morphnet.train.plan import PhasePlan
from morphnet.train.shared import find_shared

HOW = "measured on a few steps of each network, with whatever else runs now"


def describe_run(prepared: Prepared) -> str:
    """A table of the phases of one run: networks, FLOP, steps, and how long each takes here."""
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
    """A table of the experiments of a sweep with the time of their jobs, and the number of jobs that cannot run.

    Args:
        config: of the sweep.
        jobs: the overrides of each job.
    """
    from morphnet.report.table import write_cells

    waiting: list[tuple[str, Job]] = []
    unknown: list[str] = []
    for number, overrides in enumerate(jobs):
        try:
            job = compose_job(config, overrides, number)
            if done_records(job.config, job.run_dir) is None:
                waiting.append((" ".join(overrides), job))
        except Exception as error:  # which the job itself will raise
            unknown.append(_why(" ".join(overrides), error))
    done = len(jobs) - len(waiting) - len(unknown)
    if done:
        print(f"{done} of {len(jobs)} jobs are done already", flush=True)
    if waiting:
        print(f"how long {len(waiting)} jobs will take here: measuring a few steps of each network ...", flush=True)
    estimator, loaded = Estimator(), {}  # type: ignore[var-annotated]
    shared: set[tuple[Path, str]] = set()
    lines: dict[tuple[str, str], list[float]] = {}  # runs, phases, steps, seconds
    compiled: list[str] = []
    for overrides, job in waiting:
        try:
            prepared, estimates = _estimate(job, estimator, loaded)
        except Exception as error:
            unknown.append(_why(overrides, error))
            continue
        left = _not_done(prepared, estimates, shared)
        row = lines.setdefault((prepared.experiment.name, prepared.chain), [0, 0, 0, 0.0])
        for i, value in enumerate((1, len(left), sum(e.steps for e in left), sum(e.seconds for e in left))):
            row[i] += value
        compiled = compiled or _compiled(prepared, left)
    header = ["experiment", "phases", "runs", "phases to train", "steps", "time here"]
    body = [[*key, f"{r[0]:.0f}", f"{r[1]:.0f}", f"{r[2]:,.0f}", in_words(r[3])] for key, r in lines.items()]
    total = sum(row[3] for row in lines.values())
    text = [write_cells(header, body), *_summary(total, f"one after the other, {HOW}", compiled)] if body else []
    if unknown:
        text += [f"{len(unknown)} of {len(jobs)} jobs cannot be estimated:", *unknown]
    return "\n".join(text), len(unknown)


def _estimate(job: Job, estimator: Estimator, loaded: dict[str, ImageData]) -> tuple[Prepared, Sequence[PhaseEstimate]]:
    """A job of a sweep, prepared and measured as it will run."""
    config, trainer = job.config, job.config.trainer
    engine = choose_engine(config.device, config.precision, trainer.compile, trainer.cuda_graph)
    prepared = prepare(config, job.run_dir, job.recipe, engine, loaded=loaded)
    set_threads(trainer.threads)
    return prepared, estimator.phases(prepared.experiment, prepared.plans, prepared.architecture, prepared.parent)


def _why(overrides: str, error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"  {overrides}: {first[:200]}"


def _not_done(
    prepared: Prepared, estimates: Sequence[PhaseEstimate], shared: set[tuple[Path, str]]
) -> list[PhaseEstimate]:
    """Phases that a job will train: not done, and not among those that jobs before it share, which are added to."""
    left, done = [], _done_phases(prepared)
    for estimate in estimates:
        parents = _shares(prepared, estimate.plan)
        phase = None if parents is None else (parents, phase_hash(prepared.experiment, estimate.plan))
        if estimate.plan.folder not in done and phase not in shared:
            left.append(estimate)
        if phase is not None:
            shared.add(phase)
    return left


def in_words(seconds: float) -> str:
    """A duration for people: ``8 s``, ``12 min``, ``5 h 20 min``, ``3 days 4 h``."""
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
        return ["everything is done"]
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = [f"the machine is busy now (load {load:.0f} on {cores} cores); idle it is faster"]
    return [f"about {in_words(seconds)} here, {how}", *(busy if load > cores + 1 else []), *compiled]


def _done_phases(prepared: Prepared) -> dict[str, str]:
    """Folders of phases that are trained already, and the reason."""
    experiment = prepared.experiment
    phases = experiment.run_dir / "phases"
    found = {p.folder: "done" for p in prepared.plans if (phases / p.folder / "record.json").is_file()}
    for plan in prepared.plans:
        parents = _shares(prepared, plan)
        if parents is not None and find_shared(parents, phase_hash(experiment, plan)) is not None:
            found.setdefault(plan.folder, "trained already")
    return found


def _shares(prepared: Prepared, plan: PhasePlan) -> Path | None:
    """The folder where runs share the phase; None where they do not."""
    return prepared.experiment.parents if plan.schedule is not None else None


def _compiled(prepared: Prepared, estimates: Sequence[PhaseEstimate]) -> list[str]:
    """One line if phases will be compiled, which the measured steps are not."""
    experiment = prepared.experiment
    count = sum(bool(e.steps) and experiment.engine.compiles(e.steps, experiment.batch_size) for e in estimates)
    return ["long phases are compiled, a minute for each network at first, and run faster than that"] if count else []
