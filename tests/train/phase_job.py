"""One small phase in float64, for as many processes as started it: ``python phase_job.py FOLDER NORM``.

NORM is ``frozen`` (batch normalisation in evaluation mode), ``group`` (GroupNorm, averaged weights) or ``batch``.
Process k of N writes ``<N>_<k>.pt``: the network, and its last evaluation.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from morphnet.config import OptimConfig
from morphnet.data import Augmentation, TrainBatches, load_digits, with_normalisation
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.store import save_network
from morphnet.train.engine import choose_engine
from morphnet.train.interruption import Interruption
from morphnet.train.loop import run_phase
from morphnet.train.phase import Outputs, PhaseSettings, Place
from morphnet.train.ranks import joined
from morphnet.train.schedule import Schedule

STEPS = 50


def build(norm: str) -> nn.Module:
    torch.manual_seed(0)
    if norm == "group":
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)
        )
    network = ResNet(cifar_architecture(8, 10, widths=(4, 4, 8), in_channels=1, activation="prelu"))
    if norm == "frozen":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
                module.training = False
    return network


def main(folder: Path, norm: str) -> None:
    torch.set_num_threads(1)
    engine = choose_engine("cpu", "float64", "false")
    digits = with_normalisation(load_digits(), "own")
    data = replace(digits, test=digits.test.take(torch.arange(601)))
    with joined(engine.device) as ranks:
        network = (
            ranks.network_from_first(lambda: save_network(build(norm), folder / "start.safetensors"))
            if norm == "batch"
            else build(norm)
        )
        result = run_phase(
            network,
            TrainBatches(data, 50, Augmentation(1, False), (0, 0)),
            Schedule(STEPS, 0.05),
            PhaseSettings(OptimConfig(ema=0.9 if norm == "group" else 0.0), evaluate_every=100, checkpoint_seconds=1e9),
            Place(engine, Interruption(ranks)),
            Outputs("parent", folder / f"{ranks.count}_ranks"),
        )
        found = {"network": network.state_dict(), "predictions": result.final.predictions, **result.final.figures()}
        torch.save(found, folder / f"{ranks.count}_{ranks.index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
