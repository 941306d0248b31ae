"""What a network said of every image: files beside a record, and what two such files say of two networks.

A file is a list of classes (``.npy``), one for each image that errors are counted on, in the data set's order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from morphnet.store.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from morphnet.data import ImageData
    from morphnet.train import Evaluation

#: Of the last evaluation of a phase.
PREDICTIONS = "predictions.npy"
#: The true classes.
LABELS = "labels.npy"
#: What a phase leaves: the third where errors were counted over ten views as well.
FILES = (PREDICTIONS, LABELS, "predictions_10_views.npy")


def over_views(path: Path, views: int) -> Path:
    """Where the classes over ``views`` views of each image stand, of which ``path`` has those over one."""
    return path.with_stem(f"{path.stem}_{views}_views")


def write_classes(path: Path, found: Tensor, classes: int) -> str:
    """Writes ``found`` and returns the sha256 of the file.

    Args:
        found: whole numbers of shape ``(N,)`` on the CPU, below 0 for images that cannot be read; the file has the
            largest value of its type for them.
        classes: how many there are; up to 255 are written as uint8, more as uint16.

    Raises:
        OSError: it cannot be written, with the file named.
    """
    kind = np.min_scalar_type(classes)
    values = np.asarray(found)
    buffer = io.BytesIO()
    np.save(buffer, np.where(values < 0, np.iinfo(kind).max, values).astype(kind), allow_pickle=False)
    write_whole(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def write_outcomes(folder: Path, data: ImageData, final: Evaluation, views: Evaluation | None) -> dict[str, str] | None:
    """Writes the files of a phase into ``folder``; returns the sha256 of each by its name, for the record.

    None where there are no predictions: of a phase that an earlier version evaluated the last time.

    Args:
        final: the last evaluation on ``data``; ``views`` that over ten views, if there is one.

    Raises:
        OSError: one cannot be written, with the file named.
    """
    if final.predictions is None:
        return None
    found = {PREDICTIONS: final.predictions, LABELS: data.test.labels.cpu()}
    if views is not None and views.predictions is not None:
        found[over_views(Path(PREDICTIONS), data.views).name] = views.predictions
    return {name: write_classes(folder / name, values, data.classes) for name, values in found.items()}


def damaged_outcomes(record: Mapping[str, Any], folder: Path) -> list[str]:
    """Every file that ``record`` names and that is not in ``folder`` as it was written, in words."""
    found = []
    for name, digest in (record.get("outcomes") or {}).items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            found.append(f"{name} beside it cannot be read ({error.strerror})")
        else:
            if hashlib.sha256(content).hexdigest() != digest:
                found.append(f"{name} beside it is not the file it was written with")
    return found


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


def compare_outcomes(child: Mapping[str, Any], control: Mapping[str, Any]) -> Paired | None:
    """Two records with their ``file``, image by image; None where one has no outcomes, or they are of other images.

    Raises:
        ValueError: a file beside them is no list of classes.
    """
    if not (child.get("outcomes") and control.get("outcomes")):
        return None
    labels, wrong, read = _read(child["file"].parent)
    labels_of_control, wrong_of_control, read_of_control = _read(control["file"].parent)
    if not np.array_equal(labels, labels_of_control):
        return None
    wrong, wrong_of_control = (w & read & read_of_control for w in (wrong, wrong_of_control))
    excess = wrong_of_control.astype(np.int8) - wrong.astype(np.int8)
    return Paired(labels, excess, int((wrong & wrong_of_control).sum()))


def mcnemar(pairs: Sequence[Paired]) -> float | None:
    """McNemar's test, exact and two-sided: whether images that one network alone gets wrong are as many either way.

    Over several pairs (seeds) an image counts once, for the network that gets it wrong in more of them, since the
    same image is no new one with another seed. None where there is no pair, or they are of other images.

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
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no list of classes: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind != "u":
        raise ValueError(f"{path} is no list of classes: unsigned whole numbers of shape (N,) are needed")
    return found
