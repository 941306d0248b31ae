"""The predictions of a network for every image: files beside a record, and two networks compared by them.

A file is a list of classes (``.npy``), one for each image that errors are counted on, in the data set's order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from morphnet.store.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from morphnet.data import ImageData
    from morphnet.report.record import Record
    from morphnet.train import Evaluation

#: Of the last evaluation of a phase.
PREDICTIONS = "predictions.npy"
#: The true classes.
LABELS = "labels.npy"
#: The files of a phase; it has the third where errors were also counted over ten views.
FILES = (PREDICTIONS, LABELS, "predictions_10_views.npy")


def over_views(path: Path, views: int) -> Path:
    """The file of predictions over ``views`` views of each image; ``path`` has those over one."""
    return path.with_stem(f"{path.stem}_{views}_views")


def write_classes(path: Path, predictions: Tensor, classes: int) -> str:
    """Writes ``predictions`` and returns the sha256 of the file.

    Args:
        predictions: whole numbers of shape ``(N,)`` on the CPU, below 0 for unreadable images, which the file has
            as the largest value of its type.
        classes: how many there are; up to 255 are written as uint8, more as uint16.

    Raises:
        OSError: it cannot be written, with the file named.
    """
    kind = np.min_scalar_type(classes)
    values = np.asarray(predictions)
    buffer = io.BytesIO()
    np.save(buffer, np.where(values < 0, np.iinfo(kind).max, values).astype(kind), allow_pickle=False)
    write_whole(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def write_outcomes(folder: Path, data: ImageData, final: Evaluation, views: Evaluation | None) -> dict[str, str] | None:
    """Writes the files of a phase into ``folder``; returns the sha256 of each by its name.

    None where the last evaluation kept no predictions.

    Args:
        final: the last evaluation on ``data``; ``views`` that over ten views, if there is one.

    Raises:
        OSError: one cannot be written, with the file named.
    """
    if final.predictions is None:
        return None
    kept = {PREDICTIONS: final.predictions, LABELS: data.test.labels.cpu()}
    if views is not None and views.predictions is not None:
        kept[over_views(Path(PREDICTIONS), data.views).name] = views.predictions
    return {name: write_classes(folder / name, values, data.classes) for name, values in kept.items()}


def damaged_outcomes(outcomes: Mapping[str, str] | None, folder: Path) -> list[str]:
    """Every file of ``outcomes`` (sha256 by name) that ``folder`` does not hold as it was written, in words."""
    problems = []
    for name, digest in (outcomes or {}).items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            problems.append(f"{name} beside it cannot be read ({error.strerror})")
        else:
            if hashlib.sha256(content).hexdigest() != digest:
                problems.append(f"{name} beside it is not the file it was written with")
    return problems


# --- two networks on the same images ---


@dataclass(frozen=True, eq=False)
class Paired:
    """A child and a control on the images that both could read.

    Attributes:
        labels: the true classes, shape ``(N,)``.
        excess: errors of the control minus those of the child on each image: -1, 0 or 1; shape ``(N,)``.
        both: images that both get wrong.
    """

    labels: np.ndarray
    excess: np.ndarray
    both: int

    @property
    def only_child(self) -> int:
        """Images that the child alone gets wrong."""
        return int((self.excess < 0).sum())

    @property
    def only_control(self) -> int:
        """Images that the control alone gets wrong."""
        return int((self.excess > 0).sum())

    @property
    def overlap(self) -> float | None:
        """Images that both get wrong, over those that at least one gets wrong; None if there are none of these."""
        either = self.both + self.only_child + self.only_control
        return self.both / either if either else None


def compare_outcomes(child: Record, control: Record) -> Paired | None:
    """Two networks image by image; None where one has no outcomes, or they are of other images.

    Raises:
        ValueError: a file beside a record is not a list of classes.
    """
    if not (child.outcomes and control.outcomes):
        return None
    labels, wrong, read = _read(child.file.parent)
    labels_of_control, wrong_of_control, read_of_control = _read(control.file.parent)
    if not np.array_equal(labels, labels_of_control):
        return None
    wrong, wrong_of_control = (w & read & read_of_control for w in (wrong, wrong_of_control))
    excess = wrong_of_control.astype(np.int8) - wrong.astype(np.int8)
    return Paired(labels, excess, int((wrong & wrong_of_control).sum()))


def mcnemar(pairs: Sequence[Paired]) -> float | None:
    """McNemar's test, exact and two-sided: whether either network alone gets equally many images wrong.

    Over several pairs (seeds) an image counts once, for the network that gets it wrong in more of them: it is the same
    image with every seed. None where there is no pair, or the pairs are of other images.

    Source: McNemar, Psychometrika 12 (1947); a sign test over images.
    """
    if not pairs or any(not np.array_equal(pair.labels, pairs[0].labels) for pair in pairs):
        return None
    from scipy.stats import binomtest

    excess = np.sum([pair.excess for pair in pairs], axis=0, dtype=np.int64)
    child, control = int((excess < 0).sum()), int((excess > 0).sum())
    return float(binomtest(child, child + control).pvalue) if child + control else 1.0


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The true classes of a phase, which images it got wrong, and which it could read."""
    labels, predictions = _classes(folder / LABELS), _classes(folder / PREDICTIONS)
    if len(labels) != len(predictions):
        raise ValueError(f"{folder}: {LABELS} has {len(labels):,} images, and {PREDICTIONS} {len(predictions):,}")
    return labels, labels != predictions, predictions != np.iinfo(predictions.dtype).max


def _classes(path: Path) -> np.ndarray:
    try:
        classes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a list of classes: {error}") from error
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or classes.dtype.kind != "u":
        raise ValueError(f"{path} is not a list of classes: unsigned whole numbers of shape (N,) are needed")
    return classes
