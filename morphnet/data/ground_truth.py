"""The classes of images in one flat folder, from a file."""

from __future__ import annotations

import contextlib
import csv
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

#: Folders of evaluation images, in the order they are looked for.
EVALUATION_FOLDERS = ("val", "validation", "test")
#: Endings of image files, in lower case: those of torchvision's ImageFolder.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: Ground truth that is found without ``data.labels``.
GROUND_TRUTH = ("LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "val.txt")
GROUND_TRUTH_FOLDERS = (".", "ILSVRC2012_devkit_t12/data", "data")
LINES = "lines of a file name and a class"
NEEDED = f"{', '.join(GROUND_TRUTH)}, or {LINES}, are needed"

Note = Callable[[str], object]


def is_ground_truth(name: str) -> bool:
    """Whether a file has the name of a ground truth, or belongs to one."""
    return name in (*GROUND_TRUTH, "meta.mat")


def find_ground_truth(root: Path, folder: str, note: Note) -> Path:
    """The ground truth of the flat ``folder`` of ``root``, under one of its usual names.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [root / place / name for place in (*GROUND_TRUTH_FOLDERS, folder) for name in GROUND_TRUTH]
    paths = [path for path in places if path.is_file()]
    if not paths:
        raise FileNotFoundError(
            f"{root / folder} has no subfolders, so their classes must be named: give data.labels=PATH "
            f"({', '.join(GROUND_TRUTH)}, or {LINES}), or sort the images into one subfolder for each class"
        )
    if paths[1:]:
        others = ", ".join(map(str, paths[1:]))
        note(f"the classes of {root / folder} are those of {paths[0]}; left alone: {others} (data.labels=PATH)")
    return paths[0]


def read_ground_truth(
    path: Path, files: Sequence[str], classes: Sequence[str], note: Note = lambda line: None
) -> dict[str, int]:
    """The label of each of ``files`` in the ground truth ``path``.

    Args:
        note: called if the ground truth names images that are missing.

    Raises:
        ValueError: its format is unknown, it contradicts itself, or it leaves a file out.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"data.labels={path}: {error.strerror}; {NEEDED}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data.labels={path} is no text; {NEEDED}") from error
    lines = [line.strip() for line in lines if line.strip()]
    ids = [_number(line) for line in lines]
    if lines and None not in ids:
        if len(lines) != len(files):
            raise ValueError(f"data.labels={path} has {len(lines)} lines; there are {len(files)} images")
        return dict(zip(files, _devkit_labels(path, [i for i in ids if i is not None], classes), strict=True))
    named, absent = _words(path, lines, files, classes)
    missing = [file for file in files if file not in named]
    if missing:
        instead = f" (it names {absent[0]}, which is not there)" if absent else ""
        raise ValueError(
            f"data.labels={path} says nothing of {len(missing)} images, such as {missing[0]}{instead}; "
            "give the file that belongs to them"
        )
    if absent:
        note(f"{path} names {len(absent):,} images that are not there, such as {absent[0]}")
    return _labels(path, named, classes)


def _words(
    path: Path, lines: Sequence[str], files: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """The word for the class of each file with its line number, and the named images that are missing."""
    known, named, absent = _Known(files), dict[str, tuple[str, int]](), list[str]()
    for number, line in enumerate(lines, 1):
        readings = [(PurePosixPath(name.replace("\\", "/")), fields) for name, *fields in _readings(line)]
        match = known.find([place.name for place, _ in readings])
        place, fields = readings[0 if match is None else match[0]]
        parts = [part for part in place.parts[:-1] if part in ("train", *EVALUATION_FOLDERS)]
        if parts[-1:] == ["train"]:  # the list has both parts
            continue
        if match is None:
            if number > 1 or place.suffix.lower() in ENDINGS:  # else a header
                absent.append(str(place))
            continue
        file, word = match[1], _class_word(path, number, fields, classes)
        before, line_before = named.setdefault(file, (word, number))
        if before != word:
            raise ValueError(
                f"data.labels={path}, line {number}: {file} is of class {word!r} here, and {before!r} in line "
                f"{line_before}"
            )
    return named, absent


class _Known:
    """Files by their names, and by their stems where only one file has it."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files, self.stems = set(files), dict[str, list[str]]()
        for file in files:
            self.stems.setdefault(PurePosixPath(file).stem, []).append(file)

    def find(self, names: Sequence[str]) -> tuple[int, str] | None:
        """The first of ``names`` (its index) that is the name, or else the stem, of a file, and the file."""
        for i, name in enumerate(names):
            if name in self.files:
                return i, name
        for i, name in enumerate(names):
            place = PurePosixPath(name)
            same = self.stems.get(place.stem if place.suffix.lower() in ENDINGS else name, [])
            if len(same) == 1:
                return i, same[0]
        return None


def _readings(line: str) -> Iterator[list[str]]:
    """The ways to split a line into columns: by commas, tabs or blanks; names may contain blanks."""
    if "," in line:
        with contextlib.suppress(csv.Error):
            yield [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    if "\t" in line:
        yield [field.strip().strip('"') for field in line.split("\t")]
    blanks = [i for i, character in enumerate(line) if character == " "] or [len(line)]
    for i in dict.fromkeys((blanks[-1], blanks[0])) if {",", "\t"} & {*line} else reversed(blanks):
        yield [line[:i].strip().strip('"'), line[i:].strip().strip('"')]


def _class_word(path: Path, number: int, fields: Sequence[str], classes: Sequence[str]) -> str:
    """The class in the columns after the file name."""
    fields = [field for field in fields if field]
    if len(fields) == 1:
        words = fields[0].split()
        boxes = len(words) % 5 == 0 and [_number(word) is None for word in words[:5]] == [True] + 4 * [False]
        # Kaggle's: a class and the sides of a box for each object. Others: a class and its description.
        return words[0] if boxes or (re.fullmatch(r"n\d{8}", words[0]) and words[0] in classes) else fields[0]
    named = [field for field in fields if field in classes]
    if len(named) != 1:
        several = "; of several columns one has to be the name of a class, a subfolder of train" if fields else ""
        needed = f"a file name and a class are needed in each line{several}"
        raise ValueError(f"data.labels={path}, line {number}: {','.join(fields)!r} is no class; {needed}")
    return named[0]


def _labels(path: Path, named: dict[str, tuple[str, int]], classes: Sequence[str]) -> dict[str, int]:
    """Labels for words that are all class names, or all places among the sorted class names."""
    numbers = {name: k for k, name in enumerate(classes)}
    words = dict(named.values())
    others = [word for word in words if word not in numbers]
    if not others:
        return {file: numbers[word] for file, (word, _) in named.items()}
    needed = f"a subfolder of train, or a number below {len(classes)},"
    if any(_number(name) is not None for name in classes):  # numbers are names
        wrong, needed = others, "a subfolder of train"
    else:
        wrong = [word for word in others if (place := _number(word)) is None or place >= len(classes)]
    if wrong:
        line = words[wrong[0]]
        raise ValueError(f"data.labels={path}, line {line}: {wrong[0]!r} is no class; {needed} is needed")
    name = next((word for word in words if word in numbers), None)
    if name is not None:
        raise ValueError(
            f"data.labels={path}: {name!r} in line {words[name]} is a subfolder of train, {others[0]!r} in "
            f"line {words[others[0]]} a number; names alone, or places among the sorted names alone, are needed"
        )
    return {file: int(word) for file, (word, _) in named.items()}


def _number(word: str) -> int | None:
    """``word`` as a number of up to nine digits; None if it is not one."""
    return int(word) if len(word) < 10 and word.isdecimal() else None


def _devkit_labels(path: Path, ids: Sequence[int], classes: Sequence[str]) -> list[int]:
    """Labels for ILSVRC2012's class numbers, translated by its ``meta.mat``."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    numbers = {name: k for k, name in enumerate(classes)}
    meta = next((p for p in (path.with_name("meta.mat"), path.parent.parent / "meta.mat") if p.is_file()), None)
    if meta is None:
        needed = f"its meta.mat is needed beside it, or {LINES}"
        raise ValueError(f"data.labels={path} holds ILSVRC's numbers of classes: {needed}")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in np.atleast_1d(synsets)}
        return [numbers[wnids[i]] for i in ids]
    except (LookupError, TypeError, ValueError, NotImplementedError, OSError, MatReadError, zlib.error) as error:
        raise ValueError(f"{meta} does not name every class of {path.name} by a subfolder of train: {error}") from error
