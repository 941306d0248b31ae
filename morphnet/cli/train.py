"""``morphnet train``: a parent, its morphs and their controls."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from morphnet.cli.compose import digest, plain, read_yaml, to_dataclass, to_yaml
from morphnet.cli.status import RunStatus, finished_records
from morphnet.cli.sweep import device_of_this_job, launch, short
from morphnet.config import DataConfig, OptimConfig, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from morphnet.train import Engine
    from morphnet.train.ranks import Ranks

#: Keys that may differ between a run and its continuation: they change nothing in the result.
FREE_KEYS = {
    "output",
    "share_parent",
    "trainer.checkpoint_seconds",
    "trainer.restarts",
    "data.root",
    "data.download",
    "data.workers",
    "dry_run",
}
#: Where files lie; what is in them is compared by its hash.
PATHS = {"data.path", "data.labels", "parent", "weights"}

#: Keys that came later: where they have their default, runs made before keep their variant.
LATER = (
    "after",
    "data.policy",
    "dry_run",
    "optim.ema",
    "optim.label_smoothing",
    "schedule.decay",
    "schedule.warmup",
    "trainer.watch_every",
    "trainer.watch_steps",
)
#: What only images in files have.
OF_FILES = {"data.crop", "data.shorter_side", "data.eval_shorter_side", "data.views", "data.exif"}

_THREADS: dict[str, int] = {}


def main() -> None:
    """Runs one experiment, or with ``-m`` one for each combination of overrides."""
    launch(train)


def train(composed: DictConfig, run_dir: Path, status: RunStatus) -> list[dict[str, Any]]:
    """Runs what ``composed`` describes in ``run_dir``, in as many processes as it says; returns its records.

    Where that is done already, as its files say, neither data nor networks are loaded.
    """
    config = to_dataclass(composed, TrainConfig)
    recipe = HydraConfig.get().runtime.choices.get("recipe")
    if config.devices < 1:
        raise ValueError(f"devices={config.devices}: a number of processes from 1 is needed")
    if config.trainer.restarts < 0:
        raise ValueError(f"trainer.restarts={config.trainer.restarts}: a number from 0 is needed")

    from morphnet.train.ranks import check_devices, started_by_launcher

    if config.devices == 1 or started_by_launcher():
        return train_here(composed, run_dir, recipe, device_of_this_job(config.device), status.begin)

    from morphnet.cli.workers import run_workers
    from morphnet.report.record import read_run

    done = _done(composed, run_dir)
    if done is None:
        check_devices(config.device, config.devices)
        run_workers(composed, run_dir, recipe, config.devices, config.trainer.restarts, status)
    return done or read_run(run_dir)


def train_here(
    composed: DictConfig, run_dir: Path, recipe: str | None, device: str, begin: Callable[[], None]
) -> list[dict[str, Any]]:
    """The same in this process: alone, or as one of several that a launcher started.

    Args:
        begin: called when the directory is this run's.
    """
    from morphnet.train import choose_engine, keep_freed_memory
    from morphnet.train.ranks import joined, local_count, own_device

    config = to_dataclass(composed, TrainConfig)
    trainer = config.trainer
    _set_threads(trainer.threads, local_count())
    keep_freed_memory()
    engine = choose_engine(own_device(device), config.precision, trainer.compile, trainer.cuda_graph)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(joined(engine.device))
        if not ranks.is_first:  # one of them speaks
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        done = ranks.from_first(lambda: _done(composed, run_dir))
        return _train(composed, config, run_dir, recipe, engine, ranks, begin) if done is None else done


def _done(composed: DictConfig, run_dir: Path) -> list[dict[str, Any]] | None:
    """The records of a run that is done; refuses a directory of another one."""
    _check_same_run(composed, run_dir)
    from morphnet.train.plan import count_phases

    done = finished_records(run_dir, count_phases(len(composed.phases), composed.controls))
    if done is not None:
        print(f"{short(run_dir)}: done already", flush=True)
    return done


def _train(
    composed: DictConfig,
    config: TrainConfig,
    run_dir: Path,
    recipe: str | None,
    engine: Engine,
    ranks: Ranks,
    begin: Callable[[], None],
) -> list[dict[str, Any]]:
    from morphnet.cli.inputs import architecture_of, augmentation_of, load_data, load_parent, normalised
    from morphnet.cli.operations import layer_morphs
    from morphnet.data import train_batches
    from morphnet.nn.resnet import ResNet
    from morphnet.store import network_hash
    from morphnet.train import Experiment, Optimisation, plan_phases, run_experiment

    if config.parent is None and config.weights != "none":
        raise ValueError(f"weights={config.weights} goes with parent=torchvision:NAME; there is no parent")
    layers = [layer_morphs(phase, f"phases.{i}.") for i, phase in enumerate(config.phases)]
    data = ranks.one_first_on_each_machine(lambda: load_data(config.data))
    parent = None
    if config.parent is not None:
        convert = not any(layers)
        parent = load_parent(config.parent, config.network, data, config.weights, convert=convert).float()
    data = normalised(data, config.data, parent).to(engine.device)
    augmentation = augmentation_of(config.data)
    batch_size = _total_batch(config.optim, ranks.count)
    share = ranks.share(batch_size)
    batches = train_batches(data, batch_size, augmentation, ())
    architecture = parent.architecture if isinstance(parent, ResNet) else None
    if parent is None:
        architecture = architecture_of(config.network, data.classes, data.input_size[0])
    whole = architecture if architecture is not None else parent
    assert whole is not None
    plans = plan_phases(
        config.phases,
        config.controls,
        config.schedule,
        config.optim.lr,
        len(batches),
        whole,
        config.morphing,
        parent_given=parent is not None,
        train_images=len(data.train),
        layers=layers,
        after=config.after,
    )
    momentum = _momentum_of_parent(config)
    inputs = {
        "data": data.fingerprint(),
        "parent": None if parent is None else network_hash(parent),
        "processes": str(ranks.count),
    }
    experiment = Experiment(
        name=config.name,
        seed=config.seed,
        run_dir=run_dir,
        data=data,
        augmentation=augmentation,
        batch_size=batch_size,
        optimisation=Optimisation(
            config.optim.momentum,
            config.optim.weight_decay,
            config.optim.nesterov,
            config.optim.label_smoothing,
            config.optim.ema,
        ),
        morphing=config.morphing,
        engine=engine,
        evaluate_every=config.trainer.evaluate_every,
        checkpoint_seconds=config.trainer.checkpoint_seconds,
        ranks=ranks,
        sync_bn=config.trainer.sync_bn,
        settings={
            "recipe": recipe,
            "scale": config.schedule.scale,
            "variant": _variant(composed, inputs),
            "inputs": inputs,
            "morphing": asdict(config.morphing),
        },
        threads=config.trainer.threads,
        parents=Path(config.output) / "parents" if config.share_parent else None,
        watch=(config.trainer.watch_steps, config.trainer.watch_every),
        parent_momentum=momentum,
    )

    def claim() -> None:
        _claim(run_dir, composed, inputs)
        begin()

    ranks.from_first(claim)
    chain = " -> ".join(plan.name for plan in plans if plan.role != "control")
    precision = str(engine.precision).removeprefix("torch.")
    print(f"{short(run_dir)}: {chain}; {precision} on {engine.device}", flush=True)
    if ranks.count > 1:
        print(f"{ranks.count} processes; a batch is {batch_size} images in total, {share} in each", flush=True)
    return run_experiment(experiment, plans, architecture, parent)


def _momentum_of_parent(config: TrainConfig) -> dict[str, Tensor]:
    """What the optimizer ended with when a given parent was trained; empty where that is not known."""
    from morphnet.store.source import network_of_run
    from morphnet.train.handover import load_momentum

    if config.parent is None:
        return {}
    path = Path(config.parent)
    if config.after.momentum == "kept":
        return load_momentum(network_of_run(path).parent if path.is_dir() else path.parent)
    return {}


def _total_batch(optim: OptimConfig, processes: int) -> int:
    """Images in a batch over all ``processes``."""
    each = optim.batch_size_per_process
    if each is None:
        return optim.batch_size
    if each < 1:
        raise ValueError(f"optim.batch_size_per_process={each}: a number from 1 is needed")
    return each * processes


def _set_threads(count: int | None, processes: int = 1) -> None:
    """So many threads for this run; the jobs of a sweep share a process, so what an earlier one set is undone.

    Where none are asked for, ``processes`` on one machine share its cores.
    """
    import torch

    if count is not None and not 1 <= count <= 1024:
        raise ValueError(f"trainer.threads={count}: a number from 1 to 1024 is needed, or null for all cores")
    _THREADS.setdefault("at start", torch.get_num_threads())
    shared = max(1, len(os.sched_getaffinity(0)) // processes) if processes > 1 else _THREADS["at start"]
    torch.set_num_threads(shared if count is None else count)


def _check_same_run(composed: DictConfig, run_dir: Path) -> None:
    """Refuses to go on in a directory that another configuration made."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        if (run_dir / "phases").exists():
            raise FileExistsError(f"{short(run_dir)} holds phases and no config.yaml: nobody knows what made them")
        return
    # Settings that came later are absent in an older file: it was made with what they are by default.
    before = {**_defaults(), **_flat(read_yaml(path))}
    now = _flat(plain(composed))
    changed = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key not in FREE_KEYS
    ]
    if changed:
        raise FileExistsError(
            f"{short(run_dir)} holds a run with other settings:\n  "
            + "\n  ".join(changed)
            + "\nkeep it and give another hydra.run.dir=..., or delete it"
        )


def _claim(run_dir: Path, composed: DictConfig, inputs: dict[str, str | None]) -> None:
    """Writes down what a run is made from, or compares it with what was written when the run began."""
    from morphnet.store import write_whole

    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "inputs.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{short(path)} is damaged ({error}); delete the run, or put the file back") from error
        if not isinstance(before, dict):
            raise ValueError(f"{short(path)} is damaged (it holds no names); delete the run, or put the file back")
        for what, value in inputs.items():
            if what == "processes" and before.get(what, "1") != value:
                begun = f"{short(run_dir)} was begun by {before.get(what, '1')} processes, and there are {value} now"
                raise FileExistsError(f"{begun}; give as many, or another hydra.run.dir=...")
            if what != "processes" and before.get(what) != value:
                raise FileExistsError(
                    f"{short(run_dir)} was begun with other content of the {what}; put that back, or give another "
                    "hydra.run.dir=..."
                )
    else:
        write_whole(path, (json.dumps(inputs, indent=1) + "\n").encode())
    if not (run_dir / "config.yaml").is_file():
        write_whole(run_dir / "config.yaml", to_yaml(composed).encode())


def _variant(composed: DictConfig, inputs: dict[str, str | None]) -> str:
    """Eight hexadecimal digits of everything but the seed: runs that differ in their seed alone share them."""
    left_out = {*FREE_KEYS, *PATHS, "seed"}
    if composed.data.crop is None:
        left_out |= OF_FILES  # they mean nothing then, and runs made before they came keep their digits
    settings = {k: v for k, v in _flat(plain(composed)).items() if k not in left_out}
    later = {k: v for k, v in _defaults().items() if k.startswith(LATER)}
    settings = {k: v for k, v in settings.items() if k not in later or later[k] != v}
    return digest(json.dumps([settings, inputs], sort_keys=True, default=str))


def _defaults() -> dict[str, Any]:
    """What every key is that a configuration does not give; those that have to be given stand as ``???``."""
    of_data = _flat(OmegaConf.to_container(OmegaConf.structured(DataConfig)), "data")
    whole = _flat(OmegaConf.to_container(OmegaConf.structured(TrainConfig)))
    return {**of_data, **{key: value for key, value in whole.items() if key.startswith(LATER)}}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list):
        items = [(str(i), value) for i, value in enumerate(values)]
    else:
        return {prefix: values}
    return {k: v for key, value in items for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()}
