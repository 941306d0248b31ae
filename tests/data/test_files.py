import os

import numpy as np
import pytest

from morphnet.data import with_normalisation, with_validation
from morphnet.data.files import Unreadable, Viewing
from morphnet.data.folder import load_folder
from tests.pictures import write_folder

VIEW = Viewing(32, 40)


def test_the_fingerprint_tells_folders_and_views_apart(tmp_path):
    data = load_folder("mine", write_folder(tmp_path), VIEW)
    before = data.fingerprint()
    assert before == load_folder("mine", tmp_path, VIEW).fingerprint()
    assert before != load_folder("mine", tmp_path, Viewing(32, 41)).fingerprint()
    file = tmp_path / "train" / "n0" / "train_0_0.JPEG"
    file.write_bytes(bytes(reversed(file.read_bytes())))  # as long as before
    assert before != load_folder("mine", tmp_path, VIEW).fingerprint()


def test_statistics_are_those_of_the_centre_crops(tmp_path):
    from morphnet.data.views import centre_view

    data = with_normalisation(load_folder("mine", write_folder(tmp_path), VIEW), "own")
    views = np.stack([centre_view(data.train.read(i), 40, 32) for i in range(24)]) / 255
    assert np.allclose(data.mean, views.mean((0, 2, 3)))
    assert np.allclose(data.std, views.std((0, 2, 3)))


def test_a_validation_split_takes_files(tmp_path):
    data = with_validation(load_folder("mine", write_folder(tmp_path), VIEW), 6, seed=0)
    assert (len(data.train), len(data.test), data.evaluated_on) == (18, 6, "validation")
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    names = [split.name(i) for split in (data.train, data.test) for i in range(len(split))]
    assert len(set(names)) == 24


def test_an_unreadable_file_is_counted_once_and_over_a_restart(tmp_path, capsys):
    first, second = (Unreadable(tmp_path / "unreadable.txt") for _ in range(2))
    for name in ("a", "a", "b"):
        first.add(name, "cut off\nhere")
    second.add("b", "cut off")
    second.add("c", "cut off")
    assert second.count() == 3
    assert capsys.readouterr().err.count("morphnet: a cannot be read and is skipped (cut off\nhere)") == 1
    assert Unreadable().count() == 0


def test_a_name_that_is_no_text_is_written_down_on_one_line(tmp_path):
    file = tmp_path / "unreadable.txt"
    for _ in range(2):
        unreadable = Unreadable(file)
        unreadable.add(os.fsdecode(b"train/n0/\xff\xfe.JPEG"), "cut off")
        unreadable.add("train/n0/new\nline\tand é.JPEG", "cut off")
        assert unreadable.count() == 2
    assert file.read_text(encoding="utf-8").splitlines()[:2] == [
        "train/n0/\\udcff\\udcfe.JPEG\tcut off",
        "train/n0/new\\nline\\tand é.JPEG\tcut off",
    ]


def test_a_link_to_nowhere_is_an_image_that_cannot_be_read(tmp_path):
    write_folder(tmp_path)
    before = load_folder("mine", tmp_path, VIEW).fingerprint()
    (tmp_path / "train" / "n0" / "a.JPEG").symlink_to(tmp_path / "nowhere.JPEG")
    data = load_folder("mine", tmp_path, VIEW)
    assert len(data.train) == 25
    assert data.fingerprint() != before


def test_unreadable_files_are_counted_for_each_phase_and_named_once(tmp_path, capsys):
    unreadable = Unreadable()
    for phase, names in (("0", "ab"), ("1", "bc")):
        unreadable.begin(tmp_path / phase)
        for name in names:
            unreadable.add(name, "cut off")
        assert unreadable.count() == 2
        assert [line[0] for line in (tmp_path / phase).read_text().splitlines()] == list(names)
    assert capsys.readouterr().err.count("is skipped") == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [((0, 256), "data.crop=0"), ((224, 200), "data.eval_shorter_side=200"), ((224, 256, 5), "data.views=5")],
)
def test_views_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Viewing(*settings)


def test_real_images_of_imagenet_are_all_read(imagenet_sample, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(imagenet_sample)
    data = load_folder("imagenet", tmp_path, Viewing())
    assert (len(data.train), data.classes) == (100, 100)
    sizes = {data.train.name(i): data.train.read(i).shape for i in range(100)}
    assert sizes["train/n01871265/n01871265_tusker.JPEG"] == (3, 56, 75)
    turned = load_folder("imagenet", tmp_path, Viewing(exif=True)).train
    index = list(sizes).index("train/n02951585/n02951585_can_opener.JPEG")
    assert turned.read(index).shape[1:] == sizes["train/n02951585/n02951585_can_opener.JPEG"][:0:-1]
    assert data.train.labels.tolist() == list(range(100))
