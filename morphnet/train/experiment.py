"""What the phases of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from morphnet.config import MorphConfig, OptimConfig, TrainerConfig
from morphnet.data import Augmentation, ImageData
from morphnet.data.stream import ScaleAugmentation
from morphnet.train.engine import Engine
from morphnet.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Experiment:
    """What the phases of a run share.

    Attributes:
        name: of the experiment, as in the tables.
        seed: everything random is a function of it.
        root: what the first phase starts from, as plain values: an architecture, or the hash of a given parent.
        settings: further plain values for the records.
        parents: the folder of phases that runs share; None: this run shares none.
        ranks: the processes that train together; the first of them writes all files.
        parent_momentum: the momentum of a given parent at the end of its training, by parameter; empty if unknown.
    """

    name: str
    seed: int
    run_dir: Path
    data: ImageData
    augmentation: Augmentation | ScaleAugmentation
    batch_size: int
    optimisation: OptimConfig
    morphing: MorphConfig
    trainer: TrainerConfig
    engine: Engine
    root: Mapping[str, Any]
    settings: Mapping[str, Any]
    parents: Path | None = None
    ranks: Ranks = ALONE
    parent_momentum: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine.captures(self.ranks.count)  # refuses trainer.cuda_graph=true where it cannot be
        if self.trainer.sync_bn and self.engine.device.type == "cpu":
            raise ValueError("trainer.sync_bn=true needs GPUs: PyTorch has no SyncBatchNorm for the CPU")
