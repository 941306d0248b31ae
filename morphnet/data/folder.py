"""Folders of images with one subfolder for each class, such as ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from morphnet.data.files import FileSplit, Unreadable, Viewing
from morphnet.data.ground_truth import (
    ENDINGS,
    EVALUATION_FOLDERS,
    Note,
    find_ground_truth,
    is_ground_truth,
    read_ground_truth,
)
from morphnet.data.images import ImageData

#: Folders of file systems, archives and servers, which are not classes.
OF_SYSTEMS = ("lost+found", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
#: So many names are listed in a note.
NAMED = 3


def load_folder(
    name: str,
    root: Path,
    viewing: Viewing,
    labels: Path | None = None,
    workers: int = 0,
    *,
    evaluation_only: bool = False,
    note: Note = lambda line: None,
) -> ImageData:
    """The images in ``root``: ``train/<class>/`` and ``val/<class>/``, or a flat ``val/`` with its ground truth.

    Classes are the subfolders of ``train``, in sorted order, except hidden ones and :data:`OF_SYSTEMS`.

    Args:
        labels: ground truth of a flat ``val``: Kaggle's ``LOC_val_solution.csv``, lines of a file name and a class
            (its name, or its place among the sorted ones), or the development kit's list of numbers with its
            ``meta.mat`` beside it. None: looked for in ``root``.
        evaluation_only: ``train`` may be missing; classes are then the subfolders of ``val``.
        note: called with likely mistakes: classes without images, files that are not images.

    Raises:
        FileNotFoundError, ValueError: images or classes are missing or do not fit.
        OSError: a folder cannot be read.
    """
    folder, without_train = _parts(root, evaluation_only, note)
    finder = _Finder(root)
    sorted_into = _subfolders(root / folder)
    names = sorted_into if without_train else _subfolders(root / "train")
    if not names:
        raise FileNotFoundError(f"{root / 'train'} has no subfolders: one for each class is needed")
    classes = {name: k for k, name in enumerate(names)}
    train = [] if without_train else finder.images("train", classes)
    if sorted_into:
        if labels is not None:
            raise ValueError(f"data.labels={labels} is for a flat folder; {root / folder} has subfolders, its classes")
        unknown = sorted(set(sorted_into) - set(classes))
        if unknown:
            raise ValueError(
                f"{root / folder} has {len(unknown)} classes that {root / 'train'} has not, such as {unknown[0]!r}; "
                "take them away there, or give training images of them"
            )
        test = finder.images(folder, {name: classes[name] for name in sorted_into})
    else:
        files = finder.beside(folder)
        if not files:
            raise FileNotFoundError(f"{root / folder} holds no images")
        truth = read_ground_truth(labels or find_ground_truth(root, folder, note), files, names, note)
        test = [(f"{folder}/{file}", truth[file]) for file in files]
    of_parts = [(folder, test, "the errors say nothing of them")]
    if not without_train:
        of_parts.insert(0, ("train", train, "the network gets outputs for them all the same"))
    for part, pairs, meaning in of_parts:
        empty = sorted({*range(len(names))} - {label for _, label in pairs})
        if empty:
            which = _named([names[k] for k in empty], "class", "classes")
            note(f"{which} of {len(names)} without images in {root / part}: {meaning}")
    if finder.others:
        note(f"{_named(finder.others, 'file is', 'files are')} no images by their names, and left alone, in {root}")
    for part, _, _ in of_parts if sorted_into else of_parts[:-1]:
        if loose := finder.beside(part):
            note(f"{_named(loose, 'image lies', 'images lie')} in {root / part} itself, in no class, and left alone")
    counted = _split(root, test, viewing, workers, folder)
    trained_on = counted if without_train else _split(root, train, viewing, workers, "train")
    return ImageData(name, trained_on, counted, tuple(names), (0.0,) * 3, (1.0,) * 3, unreadable=Unreadable())


def _parts(root: Path, evaluation_only: bool, note: Note) -> tuple[str, bool]:
    """Which of :data:`EVALUATION_FOLDERS` there is, and whether ``train`` is missing."""
    needs = "a folder with train/<class>/*.JPEG and val/ is needed"
    if not root.is_dir():
        problem = "is a file" if root.exists() else "is not there"
        raise FileNotFoundError(f"data.path={root} {problem}: {needs}")
    folders = [f for f in EVALUATION_FOLDERS if (root / f).is_dir()]
    train = (root / "train").is_dir()
    without_train = bool(not train and evaluation_only and folders and _subfolders(root / folders[0]))
    if not folders or not (train or without_train):
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        missing = " or ".join(EVALUATION_FOLDERS) if train else "train"
        raise FileNotFoundError(f"data.path={root} has no folder {missing} (there is {inside}): {needs}")
    if folders[1:]:
        note(f"errors are counted on {root / folders[0]}; {', '.join(folders[1:])} beside it is left alone")
    if without_train:
        note(f"{root} has no train: classes are the subfolders of {folders[0]}")
    return folders[0], without_train


@dataclass
class _Finder:
    """Finds the images in ``root``; ``others`` are the names of files that are not images."""

    root: Path
    others: list[str] = field(default_factory=list)

    def images(self, part: str, classes: dict[str, int]) -> list[tuple[str, int]]:
        """Names, relative to ``root``, and labels of the images in the folders of ``classes``, in sorted order."""
        above = tuple(os.path.realpath(self.root / place) for place in ("", part))
        return [
            (name, label)
            for class_name, label in classes.items()
            for folder, files in sorted(_walk(self.root, f"{part}/{class_name}", above))
            for name in self._chosen(f"{folder}/{file}" for file in sorted(files))
        ]

    def beside(self, part: str) -> list[str]:
        """Names of the images in the folder ``part`` itself, in sorted order."""
        with os.scandir(self.root / part) as entries:
            return self._chosen(sorted(e.name for e in entries if not _is_folder(e)))

    def _chosen(self, names: Iterator[str] | list[str]) -> list[str]:
        """The names of images, without hidden files such as those of macOS."""
        images = []
        for name in names:
            last = name.rpartition("/")[2]
            if last.lower().endswith(ENDINGS) and last[0] != ".":
                images.append(name)
            elif last[0] != "." and not is_ground_truth(last):
                self.others.append(name)
        return images


def _walk(root: Path, folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """``folder`` and all folders in it, links followed, with the names of their files.

    Args:
        above: the real paths of the folders it is in.
    """
    real = os.path.realpath(root / folder)
    if real in above:
        raise ValueError(f"{root / folder} is a link to a folder that it lies in: take it away")
    with os.scandir(root / folder) as entries:
        inside = list(entries)
    yield folder, [entry.name for entry in inside if not _is_folder(entry)]
    for entry in inside:
        if _is_folder(entry) and not _is_of_system(entry.name):
            yield from _walk(root, f"{folder}/{entry.name}", (*above, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_of_system(name: str) -> bool:
    """Whether a folder is hidden, or one of :data:`OF_SYSTEMS`."""
    return name.startswith(".") or name in OF_SYSTEMS


def _subfolders(folder: Path) -> list[str]:
    """The classes in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if _is_folder(e) and not _is_of_system(e.name))


def _split(root: Path, pairs: Sequence[tuple[str, int]], viewing: Viewing, workers: int, folder: str) -> FileSplit:
    if not pairs:
        raise FileNotFoundError(f"{root / folder} holds no images")
    names = np.array([os.fsencode(name) for name, _ in pairs])
    return FileSplit(root, names, torch.tensor([label for _, label in pairs]), viewing, workers)


def _named(names: Sequence[str], one: str, several: str) -> str:
    """How many there are, and the first of them: ``2 classes (n1, n2)``."""
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names):,} {one if len(names) == 1 else several} ({listed})"
