from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from morphnet.data.files import Viewing
from morphnet.data.folder import load_folder
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
    if flat:
        (tmp_path / "val" / "val.txt").write_text("".join(f"val_{k}_{i} n{k}\n" for k in range(3) for i in range(4)))
    else:
        (tmp_path / "val" / "n1" / "list").write_text("val_1_0.JPEG")
    notes = []
    data = load_folder("mine", tmp_path, VIEW, note=notes.append)
    assert (len(data.train), len(data.test), data.classes) == (25, 12, 5)
    others = f"1 files in {tmp_path} are left alone, which are no images by their names (1 .gif);"
    if not flat:
        others = f"2 files in {tmp_path} are left alone, which are no images by their names (1 .gif, 1 list);"
    for line, start in zip(
        notes,
        [
            f"1 of 5 classes have no images in {tmp_path / 'train'}, such as 'empty'",
            f"2 of 5 classes have no images in {tmp_path / 'val'}, such as 'empty': no error is counted on them",
            f"{others} images end in .jpg, .jpeg, .png,",
            f"1 images lie in {tmp_path / 'train'} itself",
        ],
        strict=True,
    ):
        assert line.startswith(start)


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
