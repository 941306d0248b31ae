import csv
import errno
import os
import random
import signal
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from morphnet.data import Augmentation, Split, TrainBatches, load_digits, with_normalisation
from morphnet.data.images import ImageData
from morphnet.nn.resnet import ResNet, cifar_architecture
from morphnet.train import evaluate_data
from morphnet.train.checkpoint import CheckpointError
from morphnet.train.engine import choose_engine
from morphnet.train.interruption import Interrupted, Interruption
from morphnet.train.loop import run_phase
from morphnet.train.optimizer import make_optimizer
from morphnet.train.phase import Outputs, PhaseSettings, Place
from morphnet.train.schedule import Schedule
from morphnet.train.step import Learner, TrainStep


class DiesError(Exception):
    """Stands for a process that is killed."""


@pytest.fixture(scope="module")
def data() -> ImageData:
    digits = with_normalisation(load_digits(), "own")
    few = Split(digits.test.images[:100], digits.test.labels[:100])
    return ImageData(**{**vars(digits), "test": few})


def _network(dropout=0.2):
    network = ResNet(
        cifar_architecture(8, 10, widths=(4, 4, 8), in_channels=1, activation="prelu"), torch.Generator().manual_seed(1)
    )
    return nn.Sequential(network, nn.Dropout(dropout)) if dropout else network


def _train(
    data, folder, *, network=None, precision="float32", steps=14, lr=0.05, log=None, interruption=None, **settings
):
    network = _network() if network is None else network
    logged = []
    result = run_phase(
        network,
        TrainBatches(data, 50, Augmentation(1, True), (0, 0)),
        Schedule(steps, lr),
        PhaseSettings(**{"checkpoint_seconds": 0, **settings}),
        Place(choose_engine("cpu", precision, "false"), interruption or Interruption()),
        Outputs("parent", folder, log or (lambda *entry: logged.append(entry)), "this run"),
    )
    return network, result, logged


def _dies_at(network, call):
    """Lets the forward pass ``call``, counted from 1 over training alone, raise."""
    calls = [0]

    def hook(module, inputs):
        calls[0] += module.training
        if calls[0] == call and module.training:
            raise DiesError

    network.register_forward_pre_hook(hook)
    return network


def _steps(folder):
    with open(folder / "steps.csv") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def _without_times(history):
    return [{k: v for k, v in entry.items() if k != "images_per_second"} for entry in history]


def _assert_same(a, b):
    for (name, one), (_, two) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize(
    ("at", "precision"),
    [(at, "float32") for at in [(1,), (6,), (7,), (3, 2, 7)]]
    + [((4,), "float16"), ((3, 2, 7), "bfloat16")]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [((4,), "float32"), ((13,), "float32"), ((4,), "bfloat16"), ((3, 2, 7), "float16")]
    ],
)
def test_a_phase_that_died_ends_with_the_same_bits(data, tmp_path, at, precision):
    whole, result, _ = _train(data, tmp_path / "whole", precision=precision)
    for call in at:
        with pytest.raises(DiesError):
            _train(data, tmp_path / "died", network=_dies_at(_network(), call), precision=precision)
    again, continued, _ = _train(data, tmp_path / "died", precision=precision)
    _assert_same(whole, again)
    assert _steps(tmp_path / "died") == _steps(tmp_path / "whole")
    assert len(_steps(tmp_path / "whole")) == 14
    assert _without_times(continued.history) == _without_times(result.history)
    assert continued.resumed == len(at) - (at[0] == 1)
    assert (result.start, result.final) == (continued.start, continued.final)
    assert torch.equal(result.final.predictions, continued.final.predictions)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        one, two = (_optimizer_state(tmp_path / where / name) for where in ("whole", "died"))
        assert len(one) == len(two) > 10
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def _optimizer_state(path):
    with open(path, "rb") as file:
        file.readline()
        state = torch.load(file, weights_only=True)["trained"]["optimizer"]["state"]
    return [v["momentum_buffer"] for v in state.values()]


def test_a_phase_goes_on_in_another_arithmetic(data, tmp_path, capsys):
    with pytest.raises(DiesError):
        _train(data, tmp_path, network=_dies_at(_network(), 8), precision="bfloat16")
    _, result, _ = _train(data, tmp_path, precision="float64")
    assert [(s["from"], s["to"], s["precision"]) for s in result.stretches] == [(0, 7, "bfloat16"), (7, 14, "float64")]
    assert "parent: other arithmetic from here on: float64 on " in capsys.readouterr().out


def test_a_phase_that_dies_while_it_evaluates_evaluates_again(data, tmp_path):
    whole, result, _ = _train(data, tmp_path / "whole")

    def log(step, metric, value):
        if step == 6:
            raise DiesError

    with pytest.raises(DiesError):
        _train(data, tmp_path / "died", log=log)
    again, continued, logged = _train(data, tmp_path / "died")
    _assert_same(whole, again)
    assert _without_times(continued.history) == _without_times(result.history)
    assert [step for step, metric, _ in logged if metric == "loss"] == [6, 12, 14]


def test_what_the_last_evaluation_predicted_is_kept_until_the_end(data, tmp_path, monkeypatch):
    whole, result, _ = _train(data, tmp_path / "whole")
    predicted = evaluate_data(whole, data, choose_engine("cpu", "float32")).predictions
    assert torch.equal(result.final.predictions, predicted)
    assert all("predictions" not in entry for entry in result.history)

    def stops(*arguments):
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("morphnet.train.phase.momentum_of", stops)
        with pytest.raises(Interrupted, match="stopped at step 14 of 14"):
            _train(data, tmp_path / "stopped", checkpoint_seconds=1e9)
    _, continued, logged = _train(data, tmp_path / "stopped")
    assert logged == []  # nothing was evaluated again
    assert torch.equal(continued.final.predictions, predicted)


def test_a_network_that_is_only_evaluated_has_predictions(data, tmp_path):
    engine = choose_engine("cpu", "float32")
    network, batches = _network(), TrainBatches(data, 50, Augmentation(), (0, 0))
    result = run_phase(network, batches, None, PhaseSettings(), Place(engine), Outputs("parent", tmp_path))
    assert int((result.final.predictions != data.test.labels).sum()) == result.final.errors


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_of_the_step_under_way(data, tmp_path, signum):
    whole, _, _ = _train(data, tmp_path / "whole")
    network = _network()
    calls = [0]

    def hook(module, inputs):
        calls[0] += module.training
        if calls[0] == 8 and module.training:
            os.kill(os.getpid(), signum)

    network.register_forward_pre_hook(hook)
    with Interruption() as stop, pytest.raises(Interrupted, match="stopped at step 8 of 14; a checkpoint is written"):
        _train(data, tmp_path / "stopped", network=network, interruption=stop, checkpoint_seconds=1e9)
    again, result, _ = _train(data, tmp_path / "stopped")
    _assert_same(whole, again)
    assert result.resumed == 1


def test_a_signal_during_an_evaluation_is_heard_at_once(data, tmp_path):
    whole, _, _ = _train(data, tmp_path / "whole")
    network = _network()

    def hook(module, inputs):
        if not module.training and (tmp_path / "stopped" / "steps.csv").exists() and trained[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        trained[0] |= module.training

    trained = [False]
    network.register_forward_pre_hook(hook)
    with Interruption() as stop, pytest.raises(Interrupted, match="stopped at step 6 of 14"):
        _train(data, tmp_path / "stopped", network=network, interruption=stop, checkpoint_seconds=1e9)
    _assert_same(whole, _train(data, tmp_path / "stopped")[0])


def test_a_loss_that_is_not_finite_names_its_step(data, tmp_path):
    network = _network()
    calls = [0]

    def hook(module, inputs, output):
        calls[0] += module.training
        return output * float("nan") if calls[0] == 9 and module.training else output

    network.register_forward_hook(hook)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 9, learning rate 0\.005; try a lower optim.lr"):
        _train(data, tmp_path, network=network, checkpoint_seconds=1e9)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_what_is_not_finite_never_becomes_a_checkpoint(data, tmp_path):
    network = _network()
    calls = [0]

    def hook(module, inputs, output):
        calls[0] += module.training
        return output * float("nan") if calls[0] == 5 and module.training else output

    network.register_forward_hook(hook)
    with pytest.raises(FloatingPointError, match="step 5"):
        _train(data, tmp_path, network=network)
    with open(tmp_path / "checkpoint.pt", "rb") as file:
        file.readline()
        assert torch.load(file, weights_only=True)["state"]["step"] == 4


def test_a_full_disk_names_the_file_and_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    import morphnet.train.checkpoint as module

    write, written = module.write_whole, [0]

    def full(path, content):
        written[0] += 1
        if written[0] == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(OSError, match=r"No space left on device: .*checkpoint") as error:
        _train(data, tmp_path / "full")
    assert error.value.errno == errno.ENOSPC
    whole, _, _ = _train(data, tmp_path / "whole")
    again, result, _ = _train(data, tmp_path / "full")
    assert result.resumed == 1
    _assert_same(whole, again)


def test_damaged_checkpoints_stop_the_phase_or_cost_a_step(data, tmp_path):
    whole, _, _ = _train(data, tmp_path / "whole")
    with pytest.raises(DiesError):
        _train(data, tmp_path / "died", network=_dies_at(_network(), 9))
    path = tmp_path / "died" / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    _assert_same(whole, _train(data, tmp_path / "died")[0])

    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / "died" / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="delete these files"):
        _train(data, tmp_path / "died")


def test_random_generators_of_the_caller_are_left_alone(data, tmp_path):
    network = _network()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    _train(data, tmp_path, network=network, steps=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_losses_of_all_steps_agree_with_the_figures_of_the_epoch(data, tmp_path):
    _, result, logged = _train(data, tmp_path)
    losses = [float(row[2]) for row in _steps(tmp_path)]
    errors = [int(row[3]) for row in _steps(tmp_path)]
    assert result.history[1]["train_loss"] == pytest.approx(sum(losses[:6]) / 6, rel=1e-12)
    assert result.history[1]["train_error"] == sum(errors[:6]) / 300
    assert result.history[-1]["train_error"] == sum(errors[12:]) / 100
    assert [float(row[1]) for row in _steps(tmp_path)] == pytest.approx([0.05] * 7 + [0.005] * 3 + [0.0005] * 4)
    expected = {"loss", "error", "lr", "train_loss", "train_error", "images_per_second"}
    assert {metric for _, metric, _ in logged} == expected


def test_a_step_takes_the_rows_of_its_epoch(data):
    batches = TrainBatches(data, 50, Augmentation(1, True), (0, 0))
    engine = choose_engine("cpu", "float32", "false")
    network, seen = _network(0), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    step = TrainStep(Learner(network.train(), make_optimizer(network, 0.1), engine), batches)
    step.load(3, row=2)
    for k in range(4):
        step.run(k, 0.1)
    expected = [images for images, _ in batches.epoch(3, 2)]
    assert len(seen) == len(expected) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_momentum_that_is_there_from_the_beginning_changes_nothing(data):
    torch.manual_seed(0)
    one, two = _network(0), _network(0)
    ours = make_optimizer(one, 0.05)
    slopes = [p for n, p in two.named_parameters() if n.endswith(".a")]
    rest = [p for n, p in two.named_parameters() if not n.endswith(".a")]
    plain = torch.optim.SGD(
        [{"params": rest, "weight_decay": 1e-4}, {"params": slopes, "weight_decay": 0}], 0.05, 0.9, fused=True
    )
    images = torch.randn(8, 1, 8, 8)
    for _ in range(3):
        for network, optimizer in ((one, ours), (two, plain)):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    _assert_same(one, two)


@pytest.fixture
def capturing(monkeypatch):
    """Without a GPU: everything around a capture, with a graph that is the step itself; the modes that were set."""

    class Graph:
        def replay(self):
            capturing.step._step_once()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    capturing = SimpleNamespace(step=None, modes=[])
    for name, value in {
        "Stream": lambda device: stream,
        "device": lambda device: nullcontext(),
        "current_stream": lambda: stream,
        "stream": lambda one: nullcontext(),
        "graph": lambda graph, stream: nullcontext(),
        "CUDAGraph": Graph,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": capturing.modes.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return capturing


def test_a_captured_step_begins_where_the_other_does_and_goes_the_same_way(data, capturing):
    batches = TrainBatches(data, 50, Augmentation(1, True), (0, 0))
    engine = choose_engine("cpu", "float32", "false")
    found = []
    for captured in (False, True):
        network = _network()
        optimizer = make_optimizer(network, 0.1)
        step = TrainStep(Learner(network.train(), optimizer, engine), batches)
        step.load(0, row=1)
        capturing.step = step
        if captured:
            before = {name: value.clone() for name, value in network.state_dict().items()}
            assert step.try_to_capture() == ""
            assert capturing.modes == ["error", 0]
            _assert_same(network, SimpleNamespace(state_dict=lambda before=before: before))
            assert all(not s["momentum_buffer"].any() for s in optimizer.state.values())
            assert step.row.item() == 1
        for k, lr in enumerate((0.1, 0.1, 0.01)):
            step.run(k, lr)
        found.append((network.state_dict(), step.measured(1, 4)))
    (one, first), (two, second) = found
    for (loss, errors), (other, more) in zip(first, second, strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
        assert errors == more
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_a_step_that_waits_for_the_device_is_not_captured(data, capturing, wanted):
    network = _network(0).train()

    def waits(module, inputs):
        if capturing.modes == ["error"]:
            raise RuntimeError("called a synchronizing CUDA operation\nand more")

    network.register_forward_pre_hook(waits)
    engine = replace(choose_engine("cpu", "float32", "false"), cuda_graph=wanted)
    learner = Learner(network, make_optimizer(network, 0.1), engine)
    step = TrainStep(learner, TrainBatches(data, 50, Augmentation(1, True), (0, 0)))
    step.load(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    if wanted == "true":
        with pytest.raises(RuntimeError, match="synchronizing"):
            step.try_to_capture()
    else:
        assert step.try_to_capture() == "called a synchronizing CUDA operation"
    assert capturing.modes == ["error", 0]
    _assert_same(network, SimpleNamespace(state_dict=lambda: before))
    step.run(0, 0.1)
    assert step.measured(0, 1)[0][0] > 0


def test_weights_that_are_not_finite_never_become_a_checkpoint(data, tmp_path):
    network = _network()
    calls = [0]

    def hook(gradient):
        calls[0] += 1
        return gradient * float("inf") if calls[0] == 4 else gradient

    next(network.parameters()).register_hook(hook)
    with pytest.raises(FloatingPointError, match=r"weights are no longer finite at step 4, learning rate 0\.05"):
        _train(data, tmp_path, network=network)
    with open(tmp_path / "checkpoint.pt", "rb") as file:
        file.readline()
        assert torch.load(file, weights_only=True)["state"]["step"] == 3
