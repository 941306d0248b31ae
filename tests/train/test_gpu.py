"""Training on a CUDA device: ``pytest -m gpu``. Those of two GPUs and more skip where there is one."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from morphnet.config import OptimConfig
from morphnet.data import Augmentation, Split, TrainBatches, load_digits, with_normalisation
from morphnet.data.images import ImageData
from morphnet.nn.mode import without_tf32
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.train import choose_engine
from morphnet.train.engine import compiler_found
from morphnet.train.loop import run_phase
from morphnet.train.optimizer import make_optimizer
from morphnet.train.phase import Outputs, PhaseSettings, Place
from morphnet.train.schedule import Schedule
from morphnet.train.step import Learner, TrainStep

pytestmark = pytest.mark.gpu

STEPS = 30


@pytest.fixture
def data() -> ImageData:
    digits = with_normalisation(load_digits(), "own")
    return ImageData(**{**vars(digits), "train": _on_gpu(digits.train), "test": _on_gpu(digits.test)})


@pytest.fixture(autouse=True)
def _exact_arithmetic(monkeypatch):
    """Convolutions by one algorithm, the same each time, in whole float32."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with without_tf32():
        yield


def _on_gpu(split: Split) -> Split:
    return Split(split.images.cuda(), split.labels.cuda())


def _network() -> ResNet:
    return ResNet(
        cifar_architecture(8, 10, widths=(8, 8, 16), in_channels=1, activation="prelu"),
        torch.Generator().manual_seed(1),
    )


def _train(data, folder, graph, *, network=None, precision="float32", compiled="false", checkpoint_seconds=1e9):
    network = _network() if network is None else network
    result = run_phase(
        network,
        TrainBatches(data, 50, Augmentation(1, True), (0, 0)),
        Schedule(STEPS, 0.05),
        PhaseSettings(OptimConfig(ema=0.9), checkpoint_seconds=checkpoint_seconds),
        Place(choose_engine("cuda", precision, compiled, graph)),
        Outputs("parent", folder, identity="this run"),
    )
    return network, result, _losses(folder)


def _losses(folder):
    with open(folder / "steps.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_replayed_graph_trains_as_steps_one_by_one_do(data, tmp_path, compiled):
    if compiled == "true" and not compiler_found():
        pytest.skip("torch.compile needs a C++ compiler and Python's headers")
    one, eager, one_by_one = _train(data, tmp_path / "eager", "false")
    other, replayed, captured = _train(data, tmp_path / "graph", "true", compiled=compiled)
    assert len(captured) == STEPS
    assert captured[-1] < captured[0]
    assert captured == pytest.approx(one_by_one, rel=1e-3)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3, msg=name)
    assert replayed.start == eager.start
    assert replayed.gpu_memory > 0


def test_a_graph_trains_in_bfloat16(data, tmp_path):
    _, result, losses = _train(data, tmp_path, "true", precision="bfloat16")
    assert losses[-1] < losses[0]
    assert result.final.images == 1497


@pytest.mark.parametrize("graph", [False, True])
def test_nothing_in_an_epoch_waits_for_the_device(data, graph):
    network = _network().train()
    engine = choose_engine("cuda", "float32", "false", str(graph).lower()).place(network)
    batches = TrainBatches(data, 50, Augmentation(1, True), (0, 0))
    step = TrainStep(Learner(network, make_optimizer(network, 0.05), engine), batches)
    step.load(0)
    if graph:
        step.capture()
    step.run(0, 0.05)  # loads its kernels
    step.load(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(len(batches)):
            step.run(index, 0.05)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(step.row) == len(batches)
    assert all(loss > 0 for loss, _ in step.measured(0, len(batches)))


def test_a_capture_leaves_everything_as_it_was(data):
    network = _network().train()
    engine = choose_engine("cuda", "float32").place(network)
    batches = TrainBatches(data, 50, Augmentation(1, True), (0, 0))
    step = TrainStep(Learner(network, make_optimizer(network, 0.05), engine), batches)
    step.load(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step.capture()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert int(step.row) == 0
    assert not step.sums.any()


class Reads(nn.Module):
    """A network that asks for a value of its input, for which the host has to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) * (1.0 if float(x.mean()) < 1e9 else 2.0)


def test_a_step_that_cannot_be_captured_runs_as_it_is(data, tmp_path, capfd):
    _, _, losses = _train(data, tmp_path / "auto", "auto", network=Reads())
    assert "no CUDA graph" in capfd.readouterr().out
    _, _, expected = _train(data, tmp_path / "false", "false", network=Reads())
    assert losses == pytest.approx(expected, rel=1e-3)
    with pytest.raises(RuntimeError):
        _train(data, tmp_path / "true", "true", network=Reads())


@pytest.mark.parametrize("graph", ["false", "true"])
def test_a_phase_that_died_goes_on(data, tmp_path, graph):
    _, _, whole = _train(data, tmp_path / "whole", graph)
    network, calls = _network(), [0]

    def dies(module, inputs):
        calls[0] += 1
        if not module.training and calls[0] > 8:  # in the evaluation at the end of the first epoch
            raise KeyError("dies")

    network.register_forward_pre_hook(dies)
    with pytest.raises(KeyError):
        _train(data, tmp_path / "died", graph, network=network, checkpoint_seconds=0)
    _, result, continued = _train(data, tmp_path / "died", graph)
    assert (result.steps, result.resumed) == (STEPS, 1)
    assert continued == pytest.approx(whole, rel=1e-3)


def test_all_gpus_train_together(tmp_path):
    count = torch.cuda.device_count()
    more = ["trainer.sync_bn=true"] if count > 1 else []
    command = [
        sys.executable, "-m", "morphnet", "train", "device=cuda", f"devices={count}", "schedule.epochs=null",
        "schedule.steps=30", f"optim.batch_size={20 * count}", "phases=[{morph:null},{morph:1c1}]", "controls=[]",
        *more,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/digits/*/phases/*/record.json")]
    assert len(records) == 2
    assert all(record["processes"] == count and record["gpu_memory_bytes"] > 0 for record in records)
