"""The classes of images that lie in one flat folder, as a file beside them says."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: What names the classes of a flat folder, where it is looked for by itself.
GROUND_TRUTH = ("LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "val.txt")
GROUND_TRUTH_FOLDERS = (".", "ILSVRC2012_devkit_t12/data", "data")
#: What a person is told who gave something else.
NEEDED = f"{', '.join(GROUND_TRUTH)}, or lines of a file name and a class, are needed"


def is_ground_truth(name: str) -> bool:
    """Whether a file is called as one that is looked for, or belongs to one."""
    return name in (*GROUND_TRUTH, "meta.mat")


def read_ground_truth(path: Path, files: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The label of every one of ``files``, as the ground truth in ``path`` says.

    Raises:
        ValueError: it is in no form that is known, or leaves a file out.
    """
    numbers = {name: k for k, name in enumerate(classes)}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"data.labels={path}: {error.strerror}; {NEEDED}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data.labels={path} is no text; {NEEDED}") from error
    lines = [line.strip() for line in lines if line.strip()]
    if lines and all(line.isdecimal() for line in lines):
        found = dict(zip(files, _devkit_labels(path, [int(line) for line in lines], numbers), strict=False))
        if len(lines) != len(files):
            raise ValueError(f"data.labels={path} has {len(lines)} lines; there are {len(files)} images")
        return found
    known = {Path(file).stem: file for file in files} | {file: file for file in files}
    found = {}
    for number, line in enumerate(lines, 1):
        file, words = _file_and_words(line, known)
        if file is None:  # a header, or an image that is not there
            continue
        label = next((word for word in words if word in numbers), words[-1])
        if label not in numbers and not (label.isdecimal() and int(label) < len(classes)):
            raise ValueError(
                f"data.labels={path}, line {number}: {label!r} is no class; a subfolder of train, or a number below "
                f"{len(classes)}, is needed"
            )
        found[file] = numbers[label] if label in numbers else int(label)
    missing = [file for file in files if file not in found]
    if missing:
        raise ValueError(
            f"data.labels={path} says nothing of {len(missing)} images, such as {missing[0]}; "
            "give the file that belongs to them"
        )
    return found


def _file_and_words(line: str, known: dict[str, str]) -> tuple[str | None, list[str]]:
    """The file that a line of a ground truth is about, and what may be its class: names may hold blanks."""
    mark = next((mark for mark in ",\t" if mark in line), " ")
    for first, _, rest in (line.partition(mark), line.rpartition(mark)):
        name = Path(first.strip().strip('"')).name
        file = known.get(name) or known.get(Path(name).stem)
        if file is not None:
            field = rest.partition(mark)[0] if mark != " " else rest
            return file, [word.strip().strip('"') for word in (rest, field, (field.split() or [""])[0])]
    return None, []


def _devkit_labels(path: Path, ids: Sequence[int], numbers: dict[str, int]) -> list[int]:
    """Labels for ILSVRC2012's own numbers of classes, which its ``meta.mat`` translates."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    meta = next((p for p in (path.with_name("meta.mat"), path.parent.parent / "meta.mat") if p.is_file()), None)
    if meta is None:
        raise ValueError(
            f"data.labels={path} holds ILSVRC's numbers of classes: its meta.mat is needed beside it, or lines of a "
            "file name and a class"
        )
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in np.atleast_1d(synsets)}
        return [numbers[wnids[i]] for i in ids]
    except (LookupError, TypeError, ValueError, NotImplementedError, OSError, MatReadError, zlib.error) as error:
        raise ValueError(f"{meta} does not name every class of {path.name} by a subfolder of train: {error}") from error


def find_ground_truth(root: Path, folder: str) -> Path:
    """The ground truth of the flat ``folder`` of ``root``, under one of its usual names.

    Raises:
        FileNotFoundError: there is none.
    """
    for place in (*GROUND_TRUTH_FOLDERS, folder):
        for name in GROUND_TRUTH:
            if (root / place / name).is_file():
                return root / place / name
    raise FileNotFoundError(
        f"{root / folder} has no subfolders, so their classes must be named: give data.labels=PATH "
        f"({', '.join(GROUND_TRUTH)}, or lines of a file name and a class), or sort the images into one subfolder "
        "for each class"
    )
