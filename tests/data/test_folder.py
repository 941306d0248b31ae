import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from morphnet.data.decoding import UnreadableError
from morphnet.data.files import Viewing
from morphnet.data.folder import load_folder
from morphnet.data.ground_truth import read_ground_truth
from morphnet.data.noise import like_imagenet
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
        (["a.1.jpg", "a.2.jpg"], "a.1 cat\na.2 golden retriever\n"),
        (["a.jpg", "a.png"], "a.jpg cat\na.png golden retriever\n"),
        (["a.jpg", "b.jpg"], "\ufeffa.jpg\tcat\nb.jpg\tgolden retriever\n"),
        (["a.jpg", "b.JPG"], "a.JPEG cat\nb.jpg golden retriever\n"),
        (["a.jpg", "a 2.jpg"], "a.jpg cat\na 2.jpg golden retriever\n"),
        (["a.jpg", "b.jpg"], "/x/train/y/val/a.jpg cat\n/x/train/y/val/b.jpg golden retriever\n"),
        (["a.jpg", "b.jpg"], "a.jpg,cat 1 2 3 4 cat 5 6 7 8\nb.jpg,1,golden retriever,7\n"),
        (
            ["a.jpg", "b.jpg"],
            "val/a.jpg cat\ntrain/a.jpg golden retriever\nval\\b.jpg golden retriever\nval/a.jpg cat\n",
        ),
    ],
)
def test_names_of_a_ground_truth_may_be_of_any_kind(tmp_path, files, text):
    path = tmp_path / "truth.txt"
    path.write_text(text, encoding="utf-8")
    assert read_ground_truth(path, files, ["cat", "golden retriever"]) == {files[0]: 0, files[1]: 1}


def test_a_ground_truth_that_would_not_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.labels=truth\.txt is for a flat folder"):
        load_folder("mine", write_folder(tmp_path), VIEW, Path("truth.txt"))


def test_what_is_hidden_or_of_a_system_is_no_class_and_no_image(tmp_path):
    write_folder(tmp_path)
    for part in ("train", "val"):
        for name in (".ipynb_checkpoints", "lost+found", "@eaDir"):
            (tmp_path / part / name).mkdir()
        (tmp_path / part / "n0" / "._train_0_0.JPEG").write_bytes(b"\0\5\26\7")
    notes = []
    data = load_folder("mine", tmp_path, VIEW, note=notes.append)
    assert data.class_names == ("n0", "n1", "n2")
    assert (len(data.train), len(data.test)) == (24, 12)
    assert notes == []


@pytest.mark.parametrize("flat", [False, True])
def test_what_may_not_be_meant_is_said(tmp_path, flat):
    write_folder(tmp_path, flat=flat)
    (tmp_path / "train" / "old").mkdir()
    (tmp_path / "train" / "old" / "train_0_0.JPEG").write_bytes(content(picture(10, 10)))
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "n0" / "moving.gif").write_bytes(content(picture(10, 10), "GIF"))
    (tmp_path / "train" / "stray.jpg").write_bytes(content(picture(10, 10)))
    (tmp_path / "test").mkdir()
    expected = [f"errors are counted on {tmp_path / 'val'}; test beside it is left alone"]
    if flat:
        lines = [f"val_{k}_{i} n{k}\n" for k in range(3) for i in range(4)]
        (tmp_path / "val" / "val.txt").write_text("".join(lines))
        (tmp_path / "val.txt").write_text("".join([*lines, "gone.JPEG n0\n"]))
        expected += [
            f"the classes of {tmp_path / 'val'} are those of {tmp_path / 'val.txt'}; left alone: ",
            f"{tmp_path / 'val.txt'} names 1 images that are not there, such as gone.JPEG",
        ]
    else:
        (tmp_path / "val" / "n1" / "list").write_text("val_1_0.JPEG")
    expected += [
        f"1 class (empty) of 5 without images in {tmp_path / 'train'}: the network gets outputs for them",
        f"2 classes (empty, old) of 5 without images in {tmp_path / 'val'}: the errors say nothing of them",
        "1 file is (train/n0/moving.gif)" if flat else "2 files are (train/n0/moving.gif, val/n1/list)",
        "1 image lies (stray.jpg)",
    ]
    notes = []
    data = load_folder("mine", tmp_path, VIEW, note=notes.append)
    assert (len(data.train), len(data.test), data.classes) == (25, 12, 5)
    for line, start in zip(notes, expected, strict=True):
        assert line.startswith(start)


def test_folders_within_a_class_are_walked_and_links_followed(tmp_path):
    root, elsewhere = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    before = load_folder("mine", root, VIEW)
    (root / "train" / "n0" / "more").symlink_to(elsewhere / "train" / "n0")
    data = load_folder("mine", root, VIEW)
    assert data.train.labels.bincount().tolist() == [16, 8, 8]
    assert data.train.name(8) == "train/n0/more/train_0_0.JPEG"
    assert [data.train.name(i) for i in range(8)] == [before.train.name(i) for i in range(8)]


@pytest.mark.parametrize(("link", "target"), [("val/n0/all", ".."), ("train/loop", "."), ("train/n0/x", "../../..")])
def test_a_link_to_a_folder_that_it_lies_in_is_refused(tmp_path, link, target):
    root = write_folder(tmp_path / "a" / "b")
    (root / link).symlink_to(target)
    with pytest.raises(ValueError, match="is a link to a folder that it lies in: take it away"):
        load_folder("mine", root, VIEW)


def test_a_link_to_itself_is_an_image_or_left_alone(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "val" / "n0" / "loop").symlink_to("loop")
    (tmp_path / "val" / "n0" / "loop.JPEG").symlink_to("loop.JPEG")
    notes = []
    data = load_folder("mine", tmp_path, VIEW, note=notes.append)
    assert (len(data.test), len(notes)) == (13, 1)
    with pytest.raises(OSError, match="Too many levels"):
        data.test.read(0)


def test_a_pipe_is_an_image_that_cannot_be_read(tmp_path):
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "val" / "n0" / "a.JPEG")
    data = load_folder("mine", tmp_path, VIEW)
    with pytest.raises(UnreadableError, match="no regular file"):
        data.test.read(0)


def test_errors_can_be_counted_without_training_images(tmp_path):
    write_folder(tmp_path)
    shutil.rmtree(tmp_path / "train")
    notes = []
    data = load_folder("mine", tmp_path, VIEW, evaluation_only=True, note=notes.append)
    assert (data.class_names, len(data.test)) == (("n0", "n1", "n2"), 12)
    assert notes == [f"{tmp_path} has no train: classes are the subfolders of val"]
    with pytest.raises(FileNotFoundError, match="has no folder train"):
        load_folder("mine", tmp_path, VIEW)


def test_to_plan_with_there_are_as_many_images_as_imagenet_has():
    data = like_imagenet(Viewing(), 0)
    assert (len(data.train), len(data.test), data.classes) == (1_281_167, 50_000, 1000)
    assert data.train.read(7).shape == (3, 375, 500)
    assert data.train.take(torch.tensor([3, 1003])).labels.tolist() == [3, 3]


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
        ("val_0_0 n0\nval_0_0 n1", "line 2: val_0_0.JPEG is of class 'n1' here, and 'n0' in line 1"),
        ("val_0_0.JPEG 1 0 0", "line 1: '1 0 0' is no class"),
        ("val_0_0.JPEG,500,375,n0,n1", "line 1: '500,375,n0,n1' is no class; a file name and a class are needed"),
        ("val_0_0.JPEG,500,375,1", "line 1: '500,375,1' is no class"),
        ("gone.JPEG n0", r"says nothing of 12 images, such as val_0_0.JPEG \(it names gone.JPEG, which is not there\)"),
        ("val_0_0.JPEG " + "9" * 5000, "line 1: '9{5000}' is no class"),
    ],
)
def test_a_wrong_ground_truth_is_named(tmp_path, lines, message):
    write_folder(tmp_path, flat=True)
    rest = [f"val_{k}_{i}.JPEG n{k}" for k in range(3) for i in range(4) if (k, i) != (0, 0)]
    (tmp_path / "val.txt").write_text("\n".join([lines, *([] if "nothing" in message else rest)]) + "\n")
    with pytest.raises(ValueError, match=message):
        load_folder("mine", tmp_path, VIEW)


@pytest.mark.parametrize(
    ("classes", "words", "labels"),
    [
        (["1", "2", "3"], ["1", "2", "3"], [0, 1, 2]),
        (["1", "2", "3"], ["0", "1", "2"], "'0' is no class; a subfolder of train is needed"),
        (["0", "1", "10", "2"], ["0", "1", "2"], [0, 1, 3]),
        (["0", "1", "10", "2"], ["0", "1", "3"], "'3' is no class"),
        (["001", "002", "003"], ["1", "2", "3"], "'1' is no class; a subfolder of train is needed"),
        (["cat", "dog", "eel"], ["0", "1", "2"], [0, 1, 2]),
        (["cat", "dog", "eel"], ["1", "2", "3"], "line 3: '3' is no class; a subfolder of train, or a number below 3,"),
        (["cat", "dog", "eel"], ["cat", "1", "2"], "'cat' in line 1 is a subfolder of train, '1' in line 2 a number"),
        (["n01440764", "n01443537"], ["n01440764 tench", "n01443537 goldfish", "n01440764"], [0, 1, 0]),
        (["cat, wild", "dog"], ['"cat, wild"', "dog", "cat, wild"], [0, 1, 0]),
        (["red", "red fox", "eel"], ["red", "red panda", "eel"], "line 2: 'red panda' is no class"),
    ],
)
def test_words_are_all_names_or_all_places(tmp_path, classes, words, labels):
    files = [f"v{i}.jpg" for i in range(3)]
    (tmp_path / "val.txt").write_text("".join(f"{f} {w}\n" for f, w in zip(files, words, strict=True)))
    if isinstance(labels, str):
        with pytest.raises(ValueError, match=labels):
            read_ground_truth(tmp_path / "val.txt", files, classes)
    else:
        assert list(read_ground_truth(tmp_path / "val.txt", files, classes).values()) == labels


def test_a_ground_truth_that_cannot_be_read_says_what_is_needed(tmp_path):
    write_folder(tmp_path, flat=True)
    (tmp_path / "truth.txt").write_bytes(b"\xff\xfe\x80")
    for name, problem in (("none.csv", "No such file"), ("truth.txt", "is no text"), ("val", "Is a directory")):
        with pytest.raises(ValueError, match=rf"data\.labels=.*{name}.*{problem}.*LOC_val_solution.csv.*are needed"):
            load_folder("mine", tmp_path, VIEW, tmp_path / name)


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
    with pytest.raises(FileNotFoundError, match="val holds no images"):
        load_folder("mine", tmp_path, VIEW)
    (tmp_path / "val" / "n0").mkdir()
    (tmp_path / "val" / "n0" / "a.jpg").write_bytes(content(picture(10, 10)))
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
