"""What every phase of a run shares, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from morphnet.config import MorphConfig
from morphnet.data import Augmentation, ImageData
from morphnet.data.stream import ScaleAugmentation
from morphnet.train.engine import Engine
from morphnet.train.optimisation import Optimisation
from morphnet.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Experiment:
    """What every phase of a run shares.

    Attributes:
        name: of the experiment, as in the tables.
        seed: everything random is a function of it.
        root: what the first phase starts from, as plain values: an architecture, or the hash of a given parent.
        settings: further plain values for the records, such as the composed choices.
        threads: of the CPU, as they were asked for; None for all.
        parents: where phases lie that runs share; None: this run trains all its own.
        ranks: the processes that train together; the first of them writes all files.
        sync_bn: whether batch normalisation measures the batches of all of them.
        watch: (steps, every) of the first steps of a phase that are looked at closely; none by default.
        parent_momentum: what a given parent ended its training with, by parameter; empty where that is not known.
    """

    name: str
    seed: int
    run_dir: Path
    data: ImageData
    augmentation: Augmentation | ScaleAugmentation
    batch_size: int
    optimisation: Optimisation
    morphing: MorphConfig
    engine: Engine
    evaluate_every: int
    checkpoint_seconds: float
    root: Mapping[str, Any]
    settings: Mapping[str, Any]
    threads: int | None = None
    parents: Path | None = None
    ranks: Ranks = ALONE
    sync_bn: bool = False
    watch: tuple[int, int] = (0, 10)
    parent_momentum: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine.captures(self.ranks.count)  # refuses what cannot be
        if self.sync_bn and self.engine.device.type == "cpu":
            raise ValueError("trainer.sync_bn=true needs GPUs: PyTorch has no SyncBatchNorm for the CPU")
        if self.evaluate_every < 1:
            raise ValueError(f"trainer.evaluate_every={self.evaluate_every}: a number of epochs from 1 is needed")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"trainer.checkpoint_seconds={self.checkpoint_seconds}: a number from 0 is needed")
        if self.watch[0] < 0 or self.watch[1] < 1:
            given = f"trainer.watch_steps={self.watch[0]}, trainer.watch_every={self.watch[1]}"
            raise ValueError(f"{given}: steps from 0 and every from 1 are needed")
