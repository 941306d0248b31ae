"""A training run in this process, alone or together with others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from morphnet.cli.done import records_if_done
from morphnet.cli.identity import claim
from morphnet.cli.output import note, short
from morphnet.cli.threads import set_threads
from morphnet.config import TrainConfig

if TYPE_CHECKING:
    from morphnet.report.record import Record
    from morphnet.train import Engine
    from morphnet.train.ranks import Ranks


def train_here(
    config: TrainConfig, run_dir: Path, recipe: str | None, device: str, begin: Callable[[], None]
) -> list[Record]:
    """Runs ``config`` in ``run_dir``, or this process's part of it; returns the records of the run.

    Args:
        begin: called when the directory belongs to this run.
    """
    from morphnet.train import choose_engine, keep_freed_memory
    from morphnet.train.ranks import joined, local_count, own_device

    trainer = config.trainer
    set_threads(trainer.threads, local_count())
    keep_freed_memory()
    engine = choose_engine(own_device(device), config.precision, trainer.compile, trainer.cuda_graph)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(joined(engine.device))
        if not ranks.is_first:  # which alone prints
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        done = ranks.from_first(lambda: None if config.dry_run else records_if_done(config, run_dir))
        return _train(config, run_dir, recipe, engine, ranks, begin) if done is None else done


def _train(
    config: TrainConfig,
    run_dir: Path,
    recipe: str | None,
    engine: Engine,
    ranks: Ranks,
    begin: Callable[[], None],
) -> list[Record]:
    from morphnet.cli.prepare import prepare
    from morphnet.report.record import read_run
    from morphnet.train import run_experiment

    prepared = prepare(config, run_dir, recipe, engine, ranks)
    experiment = prepared.experiment
    if config.name == "digits" != config.data.name:
        note("unset keys, including name, come from experiment=digits; experiment=custom sets nothing")
    if config.dry_run:
        from morphnet.cli.estimate import describe_run

        ranks.from_first(lambda: print(describe_run(prepared), flush=True))
        return []

    def claim_and_begin() -> None:
        claim(run_dir, config, experiment.settings["inputs"])
        begin()

    ranks.from_first(claim_and_begin)
    precision = str(engine.precision).removeprefix("torch.")
    print(f"{short(run_dir)}: {prepared.chain}; {precision} on {engine.device}", flush=True)
    if ranks.count > 1:
        share = ranks.share(experiment.batch_size)
        print(
            f"{ranks.count} processes; a batch is {experiment.batch_size} images in total, {share} in each", flush=True
        )
    run_experiment(experiment, prepared.plans, prepared.architecture, prepared.parent)
    return ranks.from_first(lambda: read_run(run_dir))  # with the controls of earlier commands
