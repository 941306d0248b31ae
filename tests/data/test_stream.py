import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from morphnet.data import calibration_batches, evaluation_batches, train_batches, with_normalisation
from morphnet.data.decoding import UnreadableError
from morphnet.data.files import FileSplit, Viewing
from morphnet.data.folder import load_folder
from morphnet.data.images import ImageData
from morphnet.data.memory import Augmentation
from morphnet.data.stream import ScaleAugmentation, StreamBatches, _TrainingRows
from morphnet.train import choose_engine, evaluate, evaluate_data
from tests.pictures import write_folder

AUGMENTATION = ScaleAugmentation((32, 60), True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"))


def _data(root, workers=0, **viewing):
    return with_normalisation(load_folder("mine", root, Viewing(32, 40, **viewing), workers=workers), "imagenet")


def _all(batches, epoch=0, start=0):
    return [(x.clone(), y.clone()) for x, y in batches.epoch(epoch, start)]


def _assert_same(one, two):
    assert len(one) == len(two)
    for (x, y), (x2, y2) in zip(one, two, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_batches_are_a_function_of_key_and_epoch(root):
    first = _all(StreamBatches(_data(root), 5, AUGMENTATION, (0, 0)))
    assert len(first) == 4
    assert first[0][0].shape == (5, 3, 32, 32)
    _assert_same(first, _all(StreamBatches(_data(root), 5, AUGMENTATION, (0, 0))))
    for key, epoch in (((1, 0), 0), ((0, 1), 0), ((0, 0), 1)):
        other = _all(StreamBatches(_data(root), 5, AUGMENTATION, key), epoch)
        assert not torch.equal(first[0][0], other[0][0])


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(root, workers):
    alone = _all(StreamBatches(_data(root), 5, AUGMENTATION, (0,)), epoch=2)
    _assert_same(alone, _all(StreamBatches(_data(root, workers), 5, AUGMENTATION, (0,)), epoch=2))


def test_an_epoch_continued_in_its_middle_gives_the_same_batches(root):
    batches = StreamBatches(_data(root), 5, AUGMENTATION, (0,))
    _assert_same(_all(batches, 1)[2:], _all(batches, 1, start=2))


def test_the_parts_of_several_processes_are_the_whole(root):
    batches = StreamBatches(_data(root), 6, AUGMENTATION, (0,))
    parts = []
    for index in range(2):
        feed = batches.feed(index, 2)
        feed.load(0, 0)
        found = []
        for _ in range(len(batches)):
            feed.advance()
            images, labels = feed.batch(torch.zeros(1))
            found.append((images.clone(), labels.clone()))
        parts.append(found)
    together = [(torch.cat([x, x2]), torch.cat([y, y2])) for (x, y), (x2, y2) in zip(*parts, strict=True)]
    _assert_same(_all(batches), together)


def test_every_image_is_seen_at_most_once_in_an_epoch(root):
    plan = StreamBatches(_data(root), 5, AUGMENTATION, (0,)).plan(0)
    assert plan.order.flatten().unique().numel() == 20
    assert 32 <= plan.shorter.min() <= plan.shorter.max() <= 60


def test_the_generator_of_the_process_is_left_alone(root):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    _all(StreamBatches(_data(root, 1), 5, AUGMENTATION, (0,)))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_sees_every_image_once_whatever_the_number_of_processes(root):
    data = _data(root, views=10)
    whole = torch.cat([y for _, y in evaluation_batches(data)])
    assert whole.tolist() == data.test.labels.tolist()
    parts = [torch.cat([x for x, _ in evaluation_batches(data, part=k, count=2, views=10)]) for k in range(2)]
    assert torch.cat(parts).shape == (12, 10, 3, 32, 32)


def test_the_ten_views_of_one_image_hold_its_centre(root):
    data = _data(root, views=10)
    (one, _), (ten, _) = next(evaluation_batches(data)), next(evaluation_batches(data, views=10))
    assert torch.equal(ten[:, 4], one[: len(ten)])
    assert torch.equal(ten[:, 9], one[: len(ten)].flip(3))


def test_calibration_is_of_files_as_well(root):
    found = calibration_batches(_data(root), AUGMENTATION, (0,), count=4, batch_size=4)
    assert [len(x) for x, _ in found] == [4] * 4
    for half in (found[:2], found[2:]):
        assert not torch.equal(half[0][1], half[1][1])
    kinds = [type(train_batches(_data(root), 5, AUGMENTATION, ())).__name__]
    assert kinds == ["StreamBatches"]


@pytest.fixture
def damaged(tmp_path):
    """One file of each split cut off, one empty, one no image at all, one gone while it is read."""
    root = write_folder(tmp_path)
    for part, count in (("train", 8), ("val", 4)):
        whole = (root / part / "n0" / f"{part}_0_0.JPEG").read_bytes()
        (root / part / "n0" / f"{part}_0_1.JPEG").write_bytes(whole[: len(whole) // 2])
        (root / part / "n1" / f"{part}_1_1.JPEG").write_bytes(b"")
        (root / part / "n2" / f"{part}_2_{count - 1}.JPEG").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_replaced_or_left_out_and_counted(damaged, workers, capsys):
    data = _data(damaged, workers)
    (damaged / "train" / "n0" / "train_0_3.JPEG").unlink()
    batches = _all(StreamBatches(data, 24, AUGMENTATION, (0,)))
    assert len(batches[0][1]) == 24
    assert data.unreadable.count() == 4
    assert sum(len(y) for _, y in evaluation_batches(data)) == 9
    assert data.unreadable.count() == 7
    errors = capsys.readouterr().err
    assert errors.count("cannot be read and is skipped") == 5
    assert errors.count("further ones are counted") == 1


@pytest.mark.parametrize("views", [1, 10])
def test_predictions_stand_in_the_place_of_their_image_whatever_cannot_be_read(root, damaged, views):
    torch.manual_seed(0)
    network, engine = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3)), choose_engine("cpu", "float32")
    whole = evaluate_data(network, _data(root), engine, views=views).predictions.tolist()
    assert len(set(whole)) > 1
    found = evaluate_data(network, _data(damaged, views=10), engine, views=views)
    assert found.images == 9
    places = [_data(damaged).test.name(i) for i in range(12)]
    gone = {"val/n0/val_0_1.JPEG", "val/n1/val_1_1.JPEG", "val/n2/val_2_3.JPEG"}
    expected = [-1 if name in gone else said for name, said in zip(places, whole, strict=True)]
    assert found.predictions.tolist() == expected
    assert expected.count(-1) == 3


def test_a_batch_of_one_survives_a_damaged_image(damaged):
    data = _data(damaged)
    assert len(_all(StreamBatches(data, 1, AUGMENTATION, (0,)))) == 24
    assert data.unreadable.count() == 3


def test_a_folder_that_is_gone_stops_the_run(root, tmp_path):
    gone = write_folder(tmp_path / "gone", train=12)
    data = _data(gone)
    (gone / "train").rename(gone / "moved")
    with pytest.raises(ValueError, match=r"25 images in a row cannot be read.*is data.path=.* still there\?"):
        _all(StreamBatches(data, 4, AUGMENTATION, (0,)))
    data = replace(data, train=replace(data.train, workers=1))
    with pytest.raises(ValueError, match=r"^25 images in a row cannot be read"):  # and not a worker's traceback
        _all(StreamBatches(data, 4, AUGMENTATION, (0,)))


def test_an_evaluation_without_a_readable_image_is_refused(tmp_path):
    root = write_folder(tmp_path)
    for path in (root / "val").rglob("*.JPEG"):
        path.write_bytes(b"")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    with pytest.raises(ValueError, match="none of the images that errors are counted on can be read"):
        evaluate(network, evaluation_batches(_data(root)), choose_engine("cpu", "float32"))


def test_workers_are_forked_whatever_the_start_method_is(root):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert len(_all(StreamBatches(_data(root, workers=1), 5, AUGMENTATION, (0,)))) == 4
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: StreamBatches(data, 25, AUGMENTATION, ()), "optim.batch_size=25"),
        (lambda data: StreamBatches(data, 5, ScaleAugmentation((20, 40)), ()), r"data.shorter_side=\[20, 40\]"),
        (lambda data: ScaleAugmentation((50, 40)), r"data.shorter_side=\[50, 40\]"),
        (lambda data: next(evaluation_batches(_digits(), views=10)), "views=10 goes with images in files"),
        (lambda data: train_batches(data, 5, Augmentation(), ()), "in files"),
    ],
)
def test_what_cannot_be_is_refused(root, make, message):
    with pytest.raises(ValueError, match=message):
        make(_data(root))


def _digits():
    from morphnet.data import load_digits

    return load_digits()


WAITING = """
import sys, time, torch
from pathlib import Path
from morphnet.data import with_normalisation
from morphnet.data.files import Viewing
from morphnet.data.folder import load_folder
from morphnet.data.stream import ScaleAugmentation, StreamBatches
data = with_normalisation(load_folder("mine", Path(sys.argv[1]), Viewing(32, 40), workers=2), "imagenet")
feed = StreamBatches(data, 2, ScaleAugmentation((32, 60)), ()).feed()
feed.load(0, 0)
feed.advance()
print("going", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends the children of a dead process on Linux alone")
def test_workers_end_with_the_process_they_work_for(root):
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "going\n"
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < until
        time.sleep(0.02)


def _is_alive(process):
    """Whether it runs; one that has ended may still be listed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_real_images_of_imagenet_go_through_both_pipelines(imagenet_sample, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(imagenet_sample)
    data = with_normalisation(load_folder("imagenet", tmp_path, Viewing(views=10)), "imagenet")
    images = torch.cat([x for x, _ in _all(StreamBatches(data, 20, ScaleAugmentation(), (0,)))])
    assert images.shape == (100, 3, 224, 224)
    assert abs(float(images.mean())) < 0.5
    assert sum(len(y) for _, y in evaluation_batches(data)) == 100
    assert data.unreadable.count() == 0


@pytest.mark.parametrize("count", [2, 3, 7919, 7920])
def test_in_place_of_an_unreadable_image_comes_another_one(count, monkeypatch):
    split = FileSplit(Path(), np.array([b"x"] * count), torch.arange(count), Viewing(4, 4))

    def read(self, index):
        if index == 1:
            raise UnreadableError("cut off")
        return torch.zeros(3, 5, 5, dtype=torch.uint8)

    monkeypatch.setattr(FileSplit, "read", read)
    data = ImageData("mine", split, split, ("a",) * count, (0.0,) * 3, (1.0,) * 3)
    plan = StreamBatches(data, 1, ScaleAugmentation((4, 4)), (0,)).plan(0)
    row = plan.order.flatten().tolist().index(1)
    _, labels, unreadable = _TrainingRows(split, plan)[row]
    assert labels.item() != 1
    assert len(unreadable) == 1
