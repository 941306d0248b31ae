"""Runs on images in files, as a user starts them: pictures made here, and real ones of ImageNet where they are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from morphnet.cli import main
from tests.pictures import write_folder

TINY = [
    "experiment=custom",
    "network.depth=14",
    "network.widths=[4,4,8]",
    "data=folder",
    "data.crop=32",
    "data.shorter_side=[32,48]",
    "data.eval_shorter_side=36",
    "data.views=10",
    "data.workers=1",
    "optim.batch_size=6",
    "optim.lr=0.05",
    "phases=[{morph: null},{morph: 1c1}]",
    "schedule.epochs=2",
    "device=cpu",
    "precision=float32",
    "trainer.threads=1",
]


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Runs a command in this process, in ``tmp_path``; gives exit code, standard output and standard error."""
    monkeypatch.setattr("sys.argv", ["morphnet"])
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        capfd.readouterr()
        code = main(list(arguments))
        return code, *capfd.readouterr()

    return call


def test_a_run_on_a_folder_reports_one_view_and_ten(run, tmp_path):
    root = write_folder(tmp_path / "images")
    (root / "train" / "n0" / "train_0_1.JPEG").write_bytes(b"cut off")
    (root / "val" / "n1" / "val_1_1.JPEG").write_bytes(b"cut off")
    code, output, errors = run("train", *TINY, f"data.path={root}", "hydra.run.dir=run")
    assert code == 0, output + errors
    assert "10-view error %" in output
    assert "Images that could not be read: up to 2 in a phase of custom (unreadable.txt in its folder" in output
    assert errors.count("cannot be read and is skipped") == 2
    for phase in ("0_parent", "1_1c1"):
        record = json.loads((tmp_path / "run" / "phases" / phase / "record.json").read_text())
        assert record["data"]["images"] == 11
        assert record["data"]["unreadable"] == 2
        assert record["views"]["count"] == 10
        assert 0 <= record["views"]["error"] <= 1
        assert len((tmp_path / "run" / "phases" / phase / "unreadable.txt").read_text().splitlines()) == 2
        assert record["augmentation"] == {"shorter_side": [32, 48], "flip": True}
    code, output, _ = run("eval", "parent=run", "format=json", "predictions=found.npy")
    assert code == 0
    found = json.loads(output)
    for name in ("found.npy", "found_10_views.npy"):
        kept = tmp_path / "run" / "phases" / "1_1c1" / name.replace("found", "predictions")
        assert (tmp_path / name).read_bytes() == kept.read_bytes()
        assert np.load(kept).tolist().count(255) == 1
    assert set(record["outcomes"]) == {"predictions.npy", "predictions_10_views.npy", "labels.npy"}
    assert (found["errors"], found["views"]["errors"]) == (record["errors"], record["views"]["errors"])
    assert found["unreadable"] == 1
    (root / "train" / "n9").mkdir()
    settings = [a for a in TINY if a.startswith("data")]
    code, _, errors = run("eval", "parent=run", *settings, f"data.path={root}", "data.crop=36")
    assert code == 2
    assert f"note: 1 class (n9) of 4 without images in {root / 'train'}: the network gets outputs for them" in errors
    (root / "train" / "n9").rmdir()
    code, _, errors = run("eval", "parent=run", *settings, f"data.path={root}", "data.crop=36")
    assert code == 0
    assert "note: run was made for images of 32x32, and those of folder are 36x36 here" in errors
    code, output, errors = run("morph", "parent=run/phases/0_parent", "morph=1c1", "output=grown")
    assert code == 0, output + errors
    assert "flips       0 of" in output
    code, output, errors = run("eval", "parent=grown", "format=json")
    assert code == 0, errors
    parent = json.loads((tmp_path / "run" / "phases" / "0_parent" / "record.json").read_text())
    assert json.loads(output)["errors"] == parent["errors"]
    shutil.rmtree(root / "train")
    code, output, errors = run("eval", "parent=run", *settings, f"data.path={root}", "format=json")
    assert (code, json.loads(output)["errors"]) == (0, record["errors"])
    assert f"note: {root} has no train: classes are the subfolders of val" in errors
    shutil.copy(tmp_path / "grown" / "network.safetensors", tmp_path / "alone.safetensors")
    code, _, errors = run("eval", "parent=alone.safetensors")
    assert code == 2
    assert "parent=alone.safetensors was trained on folder: give data=folder data.path=FOLDER" in errors
    code, output, errors = run("report", "records=run", "format=markdown")
    assert (code, "Images that could not be read: up to 2" in output) == (0, True)
    code, output, errors = run("report", "records=run", "format=html", "output=page")
    assert (code, "Images that could not be read: up to 2" in (tmp_path / "page" / "report.html").read_text()) == (
        0,
        True,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.path=null"], "data=folder needs data.path: a folder with train/<class>/ and val/"),
        (["data.path=nowhere"], "data.path=nowhere is not there"),
        (["data.crop=40"], "data.eval_shorter_side=36: at least data.crop=40"),
        (["data.shorter_side=[20,30]"], "data.shorter_side=[20, 30]"),
        (["data.shorter_side=[40]"], "data.shorter_side=[40]"),
        (["data.views=3"], "data.views=3; expected 1 or 10"),
        (["data.workers=-1"], "data.workers=-1"),
        (["data.pad=4"], "data.pad=4 goes with images in memory"),
        (["data.crop=null"], "data.shorter_side=[32, 48] goes with images in files"),
        (["optim.batch_size=100"], "optim.batch_size=100: folder has 24 training images"),
    ],
)
def test_wrong_settings_are_one_message(run, tmp_path, overrides, message):
    root = write_folder(tmp_path / "images")
    code, _, errors = run("train", *TINY, f"data.path={root}", *overrides)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "outputs").exists()


def _start(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "morphnet", "train", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "morph"),
    [
        ("resnet18", ["morph=1c1"]),
        ("resnet34", ["morph=1c1"]),
        ("resnet50", ["morph=1c1_half"]),
        ("resnet50", ["module=side_1c1", "target=layer*.*.conv2"]),
    ],
)
def test_torchvisions_networks_keep_what_they_say_of_real_images(run, imagenet_sample, tmp_path, name, morph):
    """Random weights, with batch normalisations that have seen the images; classes nobody has images of are empty."""
    import torchvision

    from morphnet.data import evaluation_batches, with_normalisation
    from morphnet.data.files import Viewing
    from morphnet.data.folder import load_folder

    for k, folder in enumerate(sorted(imagenet_sample.iterdir())):
        for part in ("train", "val") if k < 40 else ("train",):
            (tmp_path / "images" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / part / folder.name).symlink_to(folder)
    for k in range(900):
        (tmp_path / "images" / "train" / f"n9{k:07}").mkdir()
    data = with_normalisation(load_folder("imagenet", tmp_path / "images", Viewing()), "imagenet")
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for images, _ in evaluation_batches(data):
            network(images)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    source = [f"parent=torchvision:{name}", "weights=weights.pth"]
    images = ["data=imagenet", "data.path=images", "data.views=1"]
    code, output, errors = run("morph", *source, *morph, *images, "calibration_batches=2", "output=grown")
    assert code == 0, output + errors
    assert "flips       0 of" in output
    code, before, errors = run("eval", *source, *images, "format=json")
    assert code == 0, errors
    code, after, errors = run("eval", "parent=grown", *images, "format=json")
    assert code == 0, errors
    one, two = json.loads(before), json.loads(after)
    assert (one["images"], one["errors"]) == (two["images"], two["errors"])
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_real_images_two_phases_killed_within_an_epoch(imagenet_sample, tmp_path, processes):
    """80 real images to train on and 20 to validate, in ten groups of neighbouring classes."""
    for k, folder in enumerate(sorted(imagenet_sample.iterdir())):
        for file in folder.glob("*.JPEG"):
            place = tmp_path / "images" / ("val" if k % 5 == 4 else "train") / f"group{k // 10}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    arguments = [
        "experiment=imagenet_morph18_1c1",
        f"data.path={tmp_path / 'images'}",
        "network.widths=[16,16,16,32]",  # oneDNN 3.13 crashes on strided 1x1 convolutions of fewer channels at 56x56
        "optim.batch_size=8",
        "schedule.epochs=3",
        "controls=[]",
        "data.workers=1",
        "trainer.checkpoint_seconds=0",
        "device=cpu",
        "precision=float32",
        "morphing.calibration_batches=2",
        f"devices={processes}",
        "hydra.run.dir=run",
    ]

    def finish(folder):
        process = _start(folder, *arguments)
        output, error = process.communicate(timeout=280)
        assert process.returncode == 0, output + error
        return output

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert "10-view error %" in finish(tmp_path / "whole")
    process = _start(tmp_path / "killed", *arguments)
    steps = tmp_path / "killed" / "outputs" / "parents"
    until = time.monotonic() + 120
    while not any(len(path.read_text().splitlines()) > 14 for path in steps.glob("*/steps.csv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "parent: goes on at step" in finish(tmp_path / "killed")
    for phase in ("0_parent", "1_1c1"):
        folders = [tmp_path / name / "run" / "phases" / phase for name in ("whole", "killed")]
        one, two = (load_file(folder / "network.safetensors") for folder in folders)
        assert all(torch.equal(value, two[key]) for key, value in one.items())
        records = [json.loads((folder / "record.json").read_text()) for folder in folders]
        assert records[0]["views"] == records[1]["views"]
        assert records[0]["errors"] == records[1]["errors"]
        assert (records[0]["data"]["images"], records[0]["processes"]) == (20, processes)
