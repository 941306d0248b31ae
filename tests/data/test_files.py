import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from morphnet.data import with_normalisation, with_validation
from morphnet.data.files import Unreadable, Viewing, load_folder
from morphnet.data.ground_truth import read_ground_truth
from tests.pictures import content, picture, write_folder

VIEW = Viewing(32, 40)


def test_subfolders_are_classes(tmp_path):
    data = load_folder("mine", write_folder(tmp_path), VIEW)
    assert data.class_names == ("n0", "n1", "n2")
    assert (len(data.train), len(data.test)) == (24, 12)
    assert data.input_size == (3, 32, 32)
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.train.name(0) == "train/n0/train_0_0.JPEG"


TRUTHS = {
    "LOC_val_solution.csv": lambda k, i: f"val_{k}_{i},n{k} 10 20 30 40 n{k} 1 2 3 4",
    "val.txt": lambda k, i: f"val_{k}_{i}.JPEG {k}",
    "mine.tsv": lambda k, i: f"val/val_{k}_{i}.JPEG\tn{k}",
}


@pytest.mark.parametrize("name", TRUTHS)
def test_a_flat_folder_goes_by_its_ground_truth(tmp_path, name):
    write_folder(tmp_path, flat=True)
    lines = [TRUTHS[name](k, i) for i in range(4) for k in range(3)]
    header = ["ImageId,PredictionString"] if name.endswith("csv") else []
    (tmp_path / name).write_text("\n".join(header + lines) + "\n")
    labels = tmp_path / name if name == "mine.tsv" else None
    data = load_folder("mine", tmp_path, VIEW, labels)
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["v0.jpg", "v1.jpg"], "v0.jpg cat\nv1.jpg golden retriever\n"),
        (["v0.jpg", "v1.jpg"], 'file,class,note\nv0.jpg,"cat",old\nv1.jpg, golden retriever, new\n'),
        (["my cat.jpg", "v1.jpg"], "my cat.jpg,cat\nv1.jpg,golden retriever\n"),
        (["my cat.jpg", "v1.jpg"], "my cat.jpg 0\nv1.jpg 1\n"),
        (["a.1.jpg", "a.2.jpg"], "a.1 cat\na.2 1\n"),
        (["a.jpg", "a.png"], "a.jpg cat\na.png 1\n"),
        (["a.jpg", "b.jpg"], "\ufeffa.jpg\tcat\nb.jpg\tgolden retriever\n"),
    ],
)
def test_names_of_a_ground_truth_may_be_of_any_kind(tmp_path, files, text):
    path = tmp_path / "truth.txt"
    path.write_text(text, encoding="utf-8")
    assert read_ground_truth(path, files, ["cat", "golden retriever"]) == {files[0]: 0, files[1]: 1}


def test_a_ground_truth_that_would_not_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.labels=truth\.txt is for a flat folder"):
        load_folder("mine", write_folder(tmp_path), VIEW, Path("truth.txt"))


def test_hidden_folders_are_no_classes(tmp_path):
    write_folder(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part / ".ipynb_checkpoints").mkdir()
    assert load_folder("mine", tmp_path, VIEW).class_names == ("n0", "n1", "n2")


def test_the_development_kit_numbers_are_translated_by_its_meta_file(tmp_path):
    write_folder(tmp_path, flat=True)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")]
    savemat(kit / "meta.mat", {"synsets": np.array([(7, "n2", 0), (8, "n0", 0), (9, "n1", 0)], dtype=kinds)})
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("\n".join(["8"] * 4 + ["9"] * 4 + ["7"] * 4))
    assert load_folder("mine", tmp_path, VIEW).test.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    truth.write_text("8\n9\n")
    with pytest.raises(ValueError, match="has 2 lines; there are 12 images"):
        load_folder("mine", tmp_path, VIEW)
    truth.write_text("\n".join(["1"] * 12))
    with pytest.raises(ValueError, match="does not name every class"):
        load_folder("mine", tmp_path, VIEW)
    for damaged in (b"", bytes(200), b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM\x0f\0\0\0\x20\0\0\0" + b"x" * 32):
        (kit / "meta.mat").write_bytes(damaged)
        with pytest.raises(ValueError, match="does not name every class"):
            load_folder("mine", tmp_path, VIEW)
    (kit / "meta.mat").unlink()
    with pytest.raises(ValueError, match=r"meta\.mat is needed beside it"):
        load_folder("mine", tmp_path, VIEW)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("val_0_0.JPEG n9", "line 1: 'n9' is no class"),
        ("val_0_0.JPEG 3", "line 1: '3' is no class"),
        ("val_0_0.JPEG", "line 1: '' is no class"),
        ("val_0_0.JPEG 0", "says nothing of 11 images, such as val_0_1.JPEG"),
        ("", "says nothing of 12 images"),
    ],
)
def test_a_wrong_ground_truth_is_named(tmp_path, lines, message):
    write_folder(tmp_path, flat=True)
    (tmp_path / "val.txt").write_text(lines + "\n")
    with pytest.raises(ValueError, match=message):
        load_folder("mine", tmp_path, VIEW)


def test_a_wrong_folder_is_one_message(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there: a folder with train"):
        load_folder("mine", tmp_path / "none", VIEW)
    with pytest.raises(FileNotFoundError, match=r"has no folder train \(there is nothing\)"):
        load_folder("mine", tmp_path, VIEW)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="has no folder val or validation or test"):
        load_folder("mine", tmp_path, VIEW)
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="has no subfolders: one for each class"):
        load_folder("mine", tmp_path, VIEW)
    (tmp_path / "train" / "n0").mkdir()
    with pytest.raises(FileNotFoundError, match="train holds no images"):
        load_folder("mine", tmp_path, VIEW)


def test_a_flat_folder_without_ground_truth_says_what_to_try(tmp_path):
    write_folder(tmp_path, flat=True)
    with pytest.raises(FileNotFoundError, match=r"give data.labels=PATH \(LOC_val_solution.csv"):
        load_folder("mine", tmp_path, VIEW)


def test_a_class_that_was_not_trained_on_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "val" / "n7").mkdir()
    with pytest.raises(ValueError, match=r"has 1 classes that .* has not, such as 'n7'"):
        load_folder("mine", tmp_path, VIEW)


def test_the_fingerprint_tells_folders_and_views_apart(tmp_path):
    data = load_folder("mine", write_folder(tmp_path), VIEW)
    before = data.fingerprint()
    assert before == load_folder("mine", tmp_path, VIEW).fingerprint()
    assert before != load_folder("mine", tmp_path, Viewing(32, 41)).fingerprint()
    (tmp_path / "train" / "n0" / "train_0_0.JPEG").write_bytes(content(picture(10, 10)))
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
