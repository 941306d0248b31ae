"""``morphnet train``: a parent, its morphs and their controls."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from morphnet.cli.compose import read_yaml, run_job, to_dataclass, to_yaml
from morphnet.cli.errors import SweepError, exit_code, explain
from morphnet.config import TrainConfig

#: Keys that may differ between a run and its continuation: they change nothing in the result.
FREE_KEYS = {"output", "trainer.checkpoint_seconds", "trainer.threads", "data.root", "data.path", "data.download"}


def main() -> None:
    """Runs one experiment, or with ``-m`` one for each combination of overrides."""
    jobs: list[tuple[str, list[dict[str, Any]], Exception | None]] = []

    def job(config: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        run_dir = Path(hydra_config.runtime.output_dir)
        try:
            jobs.append((str(run_dir), train(config, run_dir), None))
        except Exception as error:
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # only if nothing was made
            if hydra_config.mode != RunMode.MULTIRUN:
                raise
            print(f"{_short(run_dir)} failed: {explain(error)}", flush=True)
            jobs.append((str(run_dir), [], error))

    run_job("train", job)
    _print_table(jobs)
    failed = [(folder, error) for folder, _, error in jobs if error is not None]
    if failed:
        listed = "".join(f"\n  {_short(Path(folder))}: {explain(error)}" for folder, error in failed)
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed:{listed}", max(exit_code(e) for _, e in failed))


def train(composed: DictConfig, run_dir: Path) -> list[dict[str, Any]]:
    """Runs what ``composed`` describes in ``run_dir``; returns the records of its phases."""
    config = to_dataclass(composed, TrainConfig)
    _check_same_run(composed, run_dir)

    import torch

    from morphnet.cli.inputs import architecture_of, load_data, load_parent, normalised
    from morphnet.data import Augmentation, TrainBatches
    from morphnet.train import (
        Experiment,
        Optimisation,
        choose_engine,
        keep_freed_memory,
        plan_phases,
        run_experiment,
    )

    if config.trainer.threads is not None:
        if config.trainer.threads < 1:
            raise ValueError(
                f"trainer.threads={config.trainer.threads}: a number from 1 is needed, or null for all cores"
            )
        torch.set_num_threads(config.trainer.threads)
    keep_freed_memory()
    engine = choose_engine(config.device, config.precision, config.trainer.compile)
    data = load_data(config.data)
    parent = None
    if config.parent is not None:
        parent = load_parent(config.parent, config.network, data, config.weights)
    data = normalised(data, config.data, parent).to(engine.device)
    augmentation = Augmentation(config.data.pad, config.data.flip)
    batches = TrainBatches(data, config.optim.batch_size, augmentation, ())
    architecture = parent.architecture if parent else architecture_of(config.network, data.classes, data.input_size[0])
    plans = plan_phases(
        config.phases,
        config.controls,
        config.schedule,
        config.optim.lr,
        len(batches),
        architecture,
        config.morphing,
        parent_given=parent is not None,
    )
    choices = HydraConfig.get().runtime.choices
    experiment = Experiment(
        name=config.name,
        seed=config.seed,
        run_dir=run_dir,
        data=data,
        augmentation=augmentation,
        batch_size=config.optim.batch_size,
        optimisation=Optimisation(config.optim.momentum, config.optim.weight_decay, config.optim.nesterov),
        morphing=config.morphing,
        engine=engine,
        evaluate_every=config.trainer.evaluate_every,
        checkpoint_seconds=config.trainer.checkpoint_seconds,
        settings={
            "recipe": choices.get("recipe"),
            "scale": config.schedule.scale,
            "variant": run_dir.name.partition("-")[2],
            "morphing": asdict(config.morphing),
        },
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(composed))
    print(f"{_short(run_dir)}: {' -> '.join(plan.name for plan in plans if plan.role != 'control')}", flush=True)
    return run_experiment(experiment, plans, architecture, parent)


def _check_same_run(composed: DictConfig, run_dir: Path) -> None:
    """Refuses to go on in a directory that another configuration made."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return
    import yaml

    before, now = _flat(read_yaml(path)), _flat(yaml.safe_load(to_yaml(composed)))
    changed = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key not in FREE_KEYS
    ]
    if changed:
        raise FileExistsError(
            f"{_short(run_dir)} holds a run with other settings:\n  "
            + "\n  ".join(changed)
            + "\nkeep it and give another hydra.run.dir=..., or delete it"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list):
        items = [(str(i), value) for i, value in enumerate(values)]
    else:
        return {prefix: values}
    return {k: v for key, value in items for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()}


def _print_table(jobs: list[tuple[str, list[dict[str, Any]], Exception | None]]) -> None:
    records = [record for _, found, _ in jobs for record in found]
    if not records:
        return
    from morphnet.report.table import format_rows, tabulate

    text = format_rows(tabulate(records))
    evaluated = sorted(
        {f"{r['data']['name']}, {r['data']['images']:,} {r['data']['evaluated_on']} images" for r in records}
    )
    print(
        f"\n{text}\n\nError at the end of training, on {'; '.join(evaluated)}; mean ± deviation over seeds.", flush=True
    )
    for folder, found, _ in jobs:
        if found:
            (Path(folder) / "table.txt").write_text(format_rows(tabulate(found)) + "\n")


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
