"""ImageNet, and any other folder with one subfolder for each class: which files are images, and of which class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from morphnet.data.files import FileSplit, Unreadable, Viewing
from morphnet.data.ground_truth import find_ground_truth, is_ground_truth, read_ground_truth
from morphnet.data.images import ImageData

#: Folders of images that errors are counted on, in the order they are looked for.
EVALUATION_FOLDERS = ("val", "validation", "test")
#: What file systems, archives and servers put beside folders; none of these is a class.
OF_SYSTEMS = ("lost+found", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


@dataclass
class _Names:
    """Tells images from other files by their names, and counts the others by their endings."""

    others: Counter[str] = field(default_factory=Counter)

    def is_image(self, path: str) -> bool:
        from torchvision.datasets.folder import IMG_EXTENSIONS

        name = os.path.basename(path)
        if name.startswith("."):  # such as those in which macOS keeps what belongs to a file
            return False
        found = name.lower().endswith(IMG_EXTENSIONS)
        if not found and not is_ground_truth(name):
            self.others[os.path.splitext(name)[1].lower() or name] += 1
        return found


def load_folder(
    name: str,
    root: Path,
    viewing: Viewing,
    labels: Path | None = None,
    workers: int = 0,
    note: Callable[[str], object] = lambda line: None,
) -> ImageData:
    """The images in ``root``: ``train/<class>/`` and ``val/<class>/``, or a flat ``val/`` with its ground truth.

    Classes are the subfolders of ``train``, in sorted order, but for hidden ones and :data:`OF_SYSTEMS`.

    Args:
        labels: ground truth of a flat ``val``: Kaggle's ``LOC_val_solution.csv``, lines of a file name and a class
            (its name, or its place among the sorted ones), or the development kit's list of numbers with its
            ``meta.mat`` beside it. None: looked for in ``root``.
        note: is told what is allowed and may not be meant: classes without images, files that are no images.

    Raises:
        FileNotFoundError, ValueError: what is not there, and what is needed.
    """
    from torchvision.datasets.folder import make_dataset

    folder, files = _evaluation_folder(root), _Names()

    def split(folder: str, classes: dict[str, int]) -> FileSplit:
        found = make_dataset(str(root / folder), classes, is_valid_file=files.is_image, allow_empty=True)
        return _split(root, [(os.path.relpath(path, root), label) for path, label in found], viewing, workers, folder)

    names = _subfolders(root / "train")
    if not names:
        raise FileNotFoundError(f"{root / 'train'} has no subfolders: one for each class is needed")
    classes = {name: k for k, name in enumerate(names)}
    train = split("train", classes)
    if sorted_into := _subfolders(root / folder):
        if labels is not None:
            raise ValueError(f"data.labels={labels} is for a flat folder; {root / folder} has subfolders, its classes")
        unknown = sorted(set(sorted_into) - set(classes))
        if unknown:
            raise ValueError(
                f"{root / folder} has {len(unknown)} classes that {root / 'train'} has not, such as {unknown[0]!r}; "
                "take them away there, or give training images of them"
            )
        test = split(folder, {c: k for c, k in classes.items() if (root / folder / c).is_dir()})
    else:
        there = sorted(e.name for e in os.scandir(root / folder) if not e.is_dir() and files.is_image(e.name))
        truth = read_ground_truth(labels or find_ground_truth(root, folder), there, names)
        test = _split(root, [(f"{folder}/{file}", truth[file]) for file in there], viewing, workers, folder)
    for line in _surprises(root, folder, names, train, test, files.others):
        note(line)
    for part in ("train", folder) if sorted_into else ("train",):
        loose = sum(1 for entry in os.scandir(root / part) if not entry.is_dir() and files.is_image(entry.name))
        if loose:
            note(f"{loose} images lie in {root / part} itself, not in the folder of a class, and are left alone")
    return ImageData(name, train, test, tuple(names), (0.0,) * 3, (1.0,) * 3, unreadable=Unreadable())


def _evaluation_folder(root: Path) -> str:
    """Which of :data:`EVALUATION_FOLDERS` stands beside ``train``."""
    needs = "a folder with train/<class>/*.JPEG and val/ is needed"
    if not root.is_dir():
        problem = "is a file" if root.exists() else "is not there"
        raise FileNotFoundError(f"data.path={root} {problem}: {needs}")
    folder = next((f for f in EVALUATION_FOLDERS if (root / f).is_dir()), None)
    if not (root / "train").is_dir() or folder is None:
        there = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        missing = "train" if not (root / "train").is_dir() else " or ".join(EVALUATION_FOLDERS)
        raise FileNotFoundError(f"data.path={root} has no folder {missing} (there is {there}): {needs}")
    return folder


def _subfolders(folder: Path) -> list[str]:
    """Sorted; not the hidden ones, which notebooks and file managers leave, and not those of systems."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in OF_SYSTEMS)


def _split(root: Path, pairs: Sequence[tuple[str, int]], viewing: Viewing, workers: int, folder: str) -> FileSplit:
    if not pairs:
        raise FileNotFoundError(f"{root / folder} holds no images")
    names = np.array([os.fsencode(name) for name, _ in pairs])
    return FileSplit(root, names, torch.tensor([label for _, label in pairs]), viewing, workers)


def _surprises(
    root: Path, folder: str, names: Sequence[str], train: FileSplit, test: FileSplit, others: Counter[str]
) -> Iterator[str]:
    """What is allowed and may not be meant."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for part, split, advice in (
        ("train", train, "a subfolder that is no class has to be taken away"),
        (folder, test, "no error is counted on them"),
    ):
        present = set(split.labels.tolist())
        empty = [name for k, name in enumerate(names) if k not in present]
        if empty:
            which = f"{len(empty)} of {len(names)} classes have no images in {root / part}, such as {empty[0]!r}"
            yield f"{which}: {advice}"
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(3)) + (
            ", ..." if len(others) > 3 else ""
        )
        yield (
            f"{others.total()} files in {root} are left alone, which are no images by their names ({kinds}); "
            f"images end in {', '.join(IMG_EXTENSIONS)}"
        )
