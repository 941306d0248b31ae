"""The classes of images that lie in one flat folder, as a file beside them says."""

from __future__ import annotations

import contextlib
import csv
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

#: Folders of images that errors are counted on, in the order they are looked for.
EVALUATION_FOLDERS = ("val", "validation", "test")
#: Of files that are images, in small letters: those of torchvision's ImageFolder.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: What names the classes of a flat folder, where it is looked for by itself.
GROUND_TRUTH = ("LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "val.txt")
GROUND_TRUTH_FOLDERS = (".", "ILSVRC2012_devkit_t12/data", "data")
#: What a person is told who gave something else.
NEEDED = f"{', '.join(GROUND_TRUTH)}, or lines of a file name and a class, are needed"

Note = Callable[[str], object]


def is_ground_truth(name: str) -> bool:
    """Whether a file is called as one that is looked for, or belongs to one."""
    return name in (*GROUND_TRUTH, "meta.mat")


def find_ground_truth(root: Path, folder: str, note: Note) -> Path:
    """The ground truth of the flat ``folder`` of ``root``, under one of its usual names.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [root / place / name for place in (*GROUND_TRUTH_FOLDERS, folder) for name in GROUND_TRUTH]
    found = [path for path in places if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{root / folder} has no subfolders, so their classes must be named: give data.labels=PATH "
            f"({', '.join(GROUND_TRUTH)}, or lines of a file name and a class), or sort the images into one subfolder "
            "for each class"
        )
    if found[1:]:
        others = ", ".join(str(path) for path in found[1:])
        note(f"the classes of {root / folder} are those of {found[0]}; left alone: {others} (data.labels=PATH)")
    return found[0]


def read_ground_truth(
    path: Path, files: Sequence[str], classes: Sequence[str], note: Note = lambda line: None
) -> dict[str, int]:
    """The label of every one of ``files``, as the ground truth in ``path`` says.

    Args:
        note: is told of images that the ground truth names and that are not there.

    Raises:
        ValueError: it is in no form that is known, contradicts itself, or leaves a file out.
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
    said, absent = _words(path, lines, files, classes)
    missing = [file for file in files if file not in said]
    if missing:
        instead = f" (it names {absent[0]}, which is not there)" if absent else ""
        raise ValueError(
            f"data.labels={path} says nothing of {len(missing)} images, such as {missing[0]}{instead}; "
            "give the file that belongs to them"
        )
    if absent:
        note(f"{path} names {len(absent):,} images that are not there, such as {absent[0]}")
    return _labels(path, said, classes)


def _words(
    path: Path, lines: Sequence[str], files: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """The word for the class of each file, and the line it stands in; and the images that are not there."""
    known, said, absent = _Known(files), dict[str, tuple[str, int]](), list[str]()
    for number, line in enumerate(lines, 1):
        readings = [(PurePosixPath(name.replace("\\", "/")), fields) for name, *fields in _readings(line)]
        found = known.find([place.name for place, _ in readings])
        place, fields = readings[0 if found is None else found[0]]
        parts = [part for part in place.parts[:-1] if part in ("train", *EVALUATION_FOLDERS)]
        if parts[-1:] == ["train"]:  # of a list of both parts
            continue
        if found is None:
            if number > 1 or place.suffix.lower() in ENDINGS:  # else a header
                absent.append(str(place))
            continue
        file, word = found[1], _class_word(path, number, fields, classes)
        before, line_before = said.setdefault(file, (word, number))
        if before != word:
            raise ValueError(
                f"data.labels={path}, line {number}: {file} is of class {word!r} here, and {before!r} in line "
                f"{line_before}"
            )
    return said, absent


class _Known:
    """Files by their names, and by what stands before their endings where that is of one file alone."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files, self.stems = set(files), dict[str, list[str]]()
        for file in files:
            self.stems.setdefault(PurePosixPath(file).stem, []).append(file)

    def find(self, names: Sequence[str]) -> tuple[int, str] | None:
        """Which of ``names`` is a file's, and the file; whole names come first. None if none is."""
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
    """A line as columns: by commas, tabs or blanks; names of files and of classes may hold blanks."""
    if "," in line:
        with contextlib.suppress(csv.Error):
            yield [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    if "\t" in line:
        yield [field.strip().strip('"') for field in line.split("\t")]
    blanks = [i for i, character in enumerate(line) if character == " "] or [len(line)]
    for i in dict.fromkeys((blanks[-1], blanks[0])) if {",", "\t"} & {*line} else reversed(blanks):
        yield [line[:i].strip().strip('"'), line[i:].strip().strip('"')]


def _class_word(path: Path, number: int, fields: Sequence[str], classes: Sequence[str]) -> str:
    """What names the class in the columns behind the name of the file."""
    fields = [field for field in fields if field]
    if len(fields) == 1:
        words = fields[0].split()
        boxes = len(words) % 5 == 0 and [_number(word) is None for word in words[:5]] == [True] + 4 * [False]
        # Kaggle's: a class and the four sides of a box, once for each object. Others: a class and what it is.
        return words[0] if boxes or (re.fullmatch(r"n\d{8}", words[0]) and words[0] in classes) else fields[0]
    named = [field for field in fields if field in classes]
    if len(named) != 1:
        several = "; of several columns one has to be the name of a class, a subfolder of train" if fields else ""
        raise ValueError(
            f"data.labels={path}, line {number}: {','.join(fields)!r} is no class; a file name and a class are needed "
            f"in each line{several}"
        )
    return named[0]


def _labels(path: Path, said: dict[str, tuple[str, int]], classes: Sequence[str]) -> dict[str, int]:
    """Labels for words that are all names of classes, or all their places among the sorted ones."""
    numbers = {name: k for k, name in enumerate(classes)}
    words = dict(said.values())
    others = [word for word in words if word not in numbers]
    if not others:
        return {file: numbers[word] for file, (word, _) in said.items()}
    needed = f"a subfolder of train, or a number below {len(classes)},"
    if any(_number(name) is not None for name in classes):  # a number is a name there
        wrong, needed = others, "a subfolder of train"
    else:
        wrong = [word for word in others if (place := _number(word)) is None or place >= len(classes)]
    if wrong:
        line = words[wrong[0]]
        raise ValueError(f"data.labels={path}, line {line}: {wrong[0]!r} is no class; {needed} is needed")
    names = [word for word in words if word in numbers]
    if names:
        raise ValueError(
            f"data.labels={path}: {names[0]!r} in line {words[names[0]]} is a subfolder of train, {others[0]!r} in "
            f"line {words[others[0]]} a number; names alone, or places among the sorted names alone, are needed"
        )
    return {file: int(word) for file, (word, _) in said.items()}


def _number(word: str) -> int | None:
    """A whole number of up to nine digits; None for everything else."""
    return int(word) if len(word) < 10 and word.isdecimal() else None


def _devkit_labels(path: Path, ids: Sequence[int], classes: Sequence[str]) -> list[int]:
    """Labels for ILSVRC2012's own numbers of classes, which its ``meta.mat`` translates."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    numbers = {name: k for k, name in enumerate(classes)}
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
