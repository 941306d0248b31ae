"""From a composed configuration to an experiment with its phases planned; nothing is run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor, nn

from morphnet.cli.identity import variant_of
from morphnet.cli.inputs import architecture_of, augmentation_of, load_data, load_parent, normalised
from morphnet.cli.operations import layer_morphs
from morphnet.cli.output import note
from morphnet.config import OptimConfig, TrainConfig
from morphnet.data import ImageData, generator_for, train_batches
from morphnet.nn.head import with_new_head
from morphnet.nn.metadata import metadata_of
from morphnet.nn.resnet import Architecture, ResNet
from morphnet.store import network_hash
from morphnet.store.source import network_of_run
from morphnet.train import Engine, Experiment, Optimisation, PhasePlan, plan_phases
from morphnet.train.growth import rehearse
from morphnet.train.handover import load_momentum
from morphnet.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        architecture: of the parent, where it is one of our ResNets.
        parent: a trained network, which may have a new last layer; None where it is trained here from the beginning.
        inputs: hashes of what it is made from.
    """

    experiment: Experiment
    plans: Sequence[PhasePlan]
    architecture: Architecture | None
    parent: nn.Module | None
    inputs: dict[str, str | None]

    @property
    def chain(self) -> str:
        """The phases that grow the network, in words."""
        return " -> ".join(plan.name for plan in self.plans if plan.role != "control")


def prepare(
    composed: DictConfig,
    config: TrainConfig,
    run_dir: Path,
    recipe: str | None,
    engine: Engine,
    ranks: Ranks = ALONE,
    loaded: dict[str, ImageData] | None = None,
) -> Prepared:
    """Loads data and a given parent, plans the phases, and checks everything that can be checked before training.

    Args:
        config: ``composed`` as a dataclass.
        recipe: its name, for the records.
        loaded: data sets that are loaded already, by their configuration; new ones are added.
    """
    if config.parent is None and config.weights != "none":
        raise ValueError(f"weights={config.weights} goes with parent=torchvision:NAME; there is no parent")
    layers = [layer_morphs(phase, f"phases.{i}.") for i, phase in enumerate(config.phases)]
    loaded = {} if loaded is None else loaded
    if repr(config.data) not in loaded:
        loaded[repr(config.data)] = ranks.one_first_on_each_machine(
            lambda: load_data(config.data, pretend=config.dry_run)
        )
    data = loaded[repr(config.data)]
    parent = None
    if config.parent is not None:
        convert = not any(layers)
        parent = load_parent(
            config.parent, config.network, data, config.weights, convert=convert, new_head=config.new_head
        ).float()
    elif config.new_head:
        raise ValueError("new_head=true goes with parent=; a parent that is trained here has the classes of the data")
    made_from = None if parent is None else network_hash(parent)
    if parent is not None and config.new_head:
        parent = with_new_head(parent, data.classes, generator_for(config.seed, "new head"))
        lineage = metadata_of(parent).get("lineage", [])
        metadata_of(parent)["lineage"] = [*lineage, {"network": made_from, "new_head": data.classes}]
    data = normalised(data, config.data, parent).to(engine.device)
    augmentation = augmentation_of(config.data)
    batch_size = _total_batch(config.optim, ranks.count)
    ranks.share(batch_size)  # refuses one that cannot be divided
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
        trains_given=config.new_head,
    )
    for plan in plans:
        if plan.is_idle:
            note(f"phase {plan.folder}: all that {plan.morph} asks for is there already, so it only trains on")
        length = plan.schedule
        if length is not None and plan.role != "control" and 0 < length.steps <= length.warmup_steps:
            note(f"phase {plan.folder}: its warm-up, {length.warmup_steps} steps, is as long as the phase or longer")
    momentum = _momentum_of_parent(config)
    root: dict[str, Any] = {"parent": made_from, "classes": data.classes}
    if parent is None:
        assert architecture is not None
        root = {"network": architecture.to_dict()}
    root |= {"precision": config.precision} if config.precision != "auto" else {}
    root |= {"momentum": hashlib.sha256(save(momentum)).hexdigest()} if momentum else {}
    inputs = {
        "data": data.fingerprint(),
        "parent": made_from,
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
        root=root,
        settings={
            "recipe": recipe,
            "scale": config.schedule.scale,
            "variant": variant_of(composed, inputs),
            "inputs": inputs,
            "morphing": asdict(config.morphing),
        },
        threads=config.trainer.threads,
        parents=Path(config.output) / "parents" if config.share_parent else None,
        watch=(config.trainer.watch_steps, config.trainer.watch_every),
        parent_momentum=momentum,
    )
    rehearse(experiment, plans, architecture, parent)
    return Prepared(experiment, plans, architecture, parent, inputs)


def _momentum_of_parent(config: TrainConfig) -> dict[str, Tensor]:
    """What the optimizer ended with when a given parent was trained; empty where that is not known."""
    if config.parent is None or config.new_head:
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
