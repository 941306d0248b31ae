"""Images that are read from their files when they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from morphnet.data.decoding import UnreadableError, decode
from morphnet.data.pixels import statistics_of_counts
from morphnet.data.views import centre_view

#: In the folder of a phase: the unreadable images with reasons.
UNREADABLE_FILE = "unreadable.txt"
#: Images in the statistics of a folder, and files whose sizes are in its fingerprint.
SAMPLE = 1000
#: Unreadable images that are named on the terminal.
NAMED = 5


@dataclass(frozen=True)
class Viewing:
    """How an image in a file becomes the input of a network.

    Attributes:
        crop: side of the square, in pixels.
        shorter_side: length of the shorter side for evaluation, before the centre crop.
        views: 1, or 10 to count errors over ten views of each image too, at the end of a phase.
        exif: whether images are turned by their EXIF orientation.
    """

    crop: int = 224
    shorter_side: int = 256
    views: int = 1
    exif: bool = False

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise ValueError(f"data.crop={self.crop}: a number of pixels from 1 is needed")
        if self.shorter_side < self.crop:
            raise ValueError(
                f"data.eval_shorter_side={self.shorter_side}: at least data.crop={self.crop} pixels are needed"
            )
        if self.views not in (1, 10):
            raise ValueError(f"data.views={self.views}; expected 1 or 10")


@dataclass
class Unreadable:
    """Files that cannot be decoded, each counted once, named on standard error and in ``file``."""

    file: Path | None = None
    found: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def begin(self, file: Path) -> None:
        """Starts the count of a new phase, in ``file``."""
        self.file = file
        self.found.clear()

    def add(self, name: str, reason: str) -> None:
        name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)  # one printable line
        if name in self.found:
            return
        self.found[name] = reason
        with contextlib.suppress(OSError):  # another machine may lack the folder; a full disk is reported elsewhere
            if self.file is not None:
                with open(self.file, "a", encoding="utf-8") as stream:
                    stream.write(f"{name}\t{' '.join(reason.split())}\n")
        if name not in self.named and len(self.named) < NAMED:
            self.named.add(name)
            more = "; further ones are counted" if len(self.named) == NAMED else ""
            print(f"morphnet: {name} cannot be read and is skipped ({reason}){more}", file=sys.stderr, flush=True)

    def count(self) -> int:
        """The number of files, with those found by other processes and before the run was continued."""
        names = set(self.found)
        if self.file is not None and self.file.is_file():
            names |= {line.split("\t")[0] for line in self.file.read_text(encoding="utf-8").splitlines()}
        return len(names)


@dataclass(frozen=True)
class FileSplit:
    """Image files and their labels.

    Attributes:
        root: the folder of the data set.
        names: paths relative to ``root``, as bytes: millions take little memory, and worker processes do not copy it.
        labels: int64 of shape (N,), on the CPU.
        workers: processes that decode.
        device: where batches go.
    """

    root: Path
    names: np.ndarray
    labels: Tensor
    viewing: Viewing
    workers: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(C, H, W) as a network sees it."""
        return (3, self.viewing.crop, self.viewing.crop)

    def to(self, device: torch.device) -> FileSplit:
        return replace(self, device=device)

    def take(self, indices: Tensor) -> FileSplit:
        """The split of the images ``indices``, which are numbers or a mask."""
        return replace(self, names=self.names[indices.cpu().numpy()], labels=self.labels[indices.cpu()])

    def name(self, index: int) -> str:
        """The file of image ``index``, relative to the data set."""
        return os.fsdecode(bytes(self.names[index]))

    def read(self, index: int) -> Tensor:
        """Image ``index``: RGB, uint8 of shape (3, H, W).

        Raises:
            UnreadableError: it cannot be decoded.
            OSError: the file cannot be read.
        """
        path = self.root / self.name(index)
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would never end
            raise UnreadableError("it is no regular file")
        return decode(path.read_bytes(), self.viewing.exif)

    def describe(self, digest: Any) -> None:
        """Adds names, labels, views, and the content of a thousand files to a hash."""
        digest.update(repr(self.viewing).encode())
        digest.update(b"\0".join(self.names.tolist()))
        digest.update(self.labels.numpy().data)
        for i in _spread(len(self)):
            path, content = self.root / self.name(i), b""
            with contextlib.suppress(OSError):  # such as a broken link, which is named when it is read
                if stat.S_ISREG(path.stat().st_mode):
                    content = path.read_bytes()
            digest.update(hashlib.sha256(content).digest())

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel over the centre crops of up to a thousand images, in [0, 1]."""
        counts = np.zeros((3, 256), dtype=np.int64)
        for i in _spread(len(self)):
            try:
                view = centre_view(self.read(i), self.viewing.shorter_side, self.viewing.crop)
            except (OSError, ValueError):
                continue
            for channel in range(3):
                counts[channel] += np.bincount(view[channel].numpy().ravel(), minlength=256)
        if not counts.any():
            raise ValueError(f"none of the images in {self.root} that were tried can be read")
        return statistics_of_counts(counts)


def _spread(count: int) -> list[int]:
    """Up to :data:`SAMPLE` indices, evenly spread."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, SAMPLE))})
