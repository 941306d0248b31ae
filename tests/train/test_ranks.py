import csv
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from morphnet.data import Augmentation, TrainBatches, evaluation_batches, load_digits, with_normalisation
from morphnet.data.feed import part_of
from morphnet.train.ranks import Ranks, check_devices, own_device

JOB = Path(__file__).with_name("phase_job.py")


def _run(folder, norm, ranks):
    if ranks == 1:
        runpy.run_path(str(JOB))["main"](folder, norm)
    else:
        _run_together(folder, norm, ranks)
    with open(folder / f"{ranks}_ranks" / "steps.csv") as file:
        steps = [(float(row["loss"]), int(row["errors"])) for row in csv.DictReader(file)]
    return steps, [torch.load(folder / f"{ranks}_{k}.pt") for k in range(ranks)]


def _run_together(folder, norm, ranks):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(folder), norm],
            env=os.environ | where | {"RANK": str(k), "LOCAL_RANK": str(k)},
        )
        for k in range(ranks)
    ]
    assert [process.wait(timeout=300) for process in started] == [0] * ranks


@pytest.mark.parametrize("norm", ["frozen", pytest.param("group", marks=pytest.mark.slow)])
def test_two_processes_with_the_same_total_batch_are_one(tmp_path, norm):
    one_steps, (one,) = _run(tmp_path, norm, 1)
    two_steps, found = _run(tmp_path, norm, 2)
    assert len(one_steps) == len(two_steps) == 50
    assert [errors for _, errors in one_steps] == [errors for _, errors in two_steps]
    for (a, _), (b, _) in zip(one_steps, two_steps, strict=True):
        assert a == pytest.approx(b, abs=1e-9)
    for other in found:
        assert other["errors"] == one["errors"]
        assert other["predictions"].tolist() == one["predictions"].tolist()
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-9)
        for name, value in one["network"].items():
            assert (value - other["network"][name]).abs().max() < 1e-9, name
    assert one_steps[0][0] > 2
    assert one_steps[-1][0] < one_steps[0][0] - 0.03  # it was trained


@pytest.mark.slow
def test_processes_hold_the_same_network_with_batch_normalisation_too(tmp_path):
    _, (first, second) = _run(tmp_path, "batch", 2)
    for name, value in first["network"].items():
        assert torch.equal(value, second["network"][name]), name
    assert (first["errors"], first["loss"]) == (second["errors"], second["loss"])


def test_parts_of_a_batch_are_the_batch_whatever_their_number():
    batches = TrainBatches(with_normalisation(load_digits(), "own"), 60, Augmentation(2, True), (3,))
    plan = batches.plan(1)
    for count in (1, 2, 3, 4):
        parts = [part_of(plan, k, count) for k in range(count)]
        for whole, *pieces in zip(plan, *parts, strict=True):
            assert torch.equal(torch.cat(pieces, -1), whole)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_test_image_is_evaluated_by_one_process(count):
    data = with_normalisation(load_digits(), "own")
    sizes = [sum(len(y) for _, y in evaluation_batches(data, 100, part, count)) for part in range(count)]
    assert sum(sizes) == 1497
    assert max(sizes) - min(sizes) <= 100


def test_a_batch_that_does_not_divide_is_refused():
    assert Ranks(1, 3).share(60) == 20
    with pytest.raises(ValueError, match=r"optim\.batch_size=61 is the batch over all processes"):
        Ranks(1, 3).share(61)


def test_a_process_takes_the_gpu_of_its_number(monkeypatch):
    assert own_device("cuda") == "cuda"
    for key, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(key, value)
    assert own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu"


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices("cuda", 2)
    check_devices("cpu", 8)
    with pytest.raises(ValueError, match="devices=3: there are 2 GPUs"):
        check_devices("cuda", 3)
    with pytest.raises(ValueError, match="names one GPU"):
        check_devices("cuda:0", 2)


def test_synchronised_norms_share_every_tensor():
    from morphnet.train.ranks import _with_synchronised_norms

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    copy = _with_synchronised_norms(network)
    assert isinstance(copy[1], torch.nn.SyncBatchNorm)
    assert isinstance(network[1], torch.nn.BatchNorm2d)
    for a, b in zip(network.state_dict(keep_vars=True).values(), copy.state_dict(keep_vars=True).values(), strict=True):
        assert a is b
