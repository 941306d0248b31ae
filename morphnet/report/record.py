"""A phase as one JSON record: its measurements, and everything that made it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch

from morphnet.report.outcomes import FILES, LABELS, PREDICTIONS, damaged_outcomes
from morphnet.settings import is_line
from morphnet.store.files import write_whole

FORMAT = 1
PACKAGES = ("morphnet", "torch", "torchvision", "numpy", "scikit-learn", "hydra-core", "omegaconf", "safetensors")

#: The source tree that this package runs from.
ROOT = Path(__file__).resolve().parents[2]

#: Beside the record of a phase that runs share: what makes it. Such a folder is not part of a run.
PHASE_FILE = "phase.json"

#: Beside the record of a phase whose first steps were watched.
WATCH_FILE = "watch.csv"

#: No measured number reaches this.
HUGE = 1e18
#: A message shows this many characters of a damaged value.
SHOWN = 40


def _is_name(value: str) -> bool:
    return is_line(value) and not PurePath(value).is_absolute() and not {"", ".."} & {value, *PurePath(value).parts}


def _are_outcomes(files: Mapping[str, str]) -> bool:
    named = {PREDICTIONS, LABELS} <= set(files) <= set(FILES)
    return named and all(re.fullmatch("[0-9a-f]{64}", str(digest)) for digest in files.values())


def _is_evaluation(values: Mapping[str, Any]) -> bool:
    counts = [values.get(key) for key in ("step", "errors", "images")]
    return all(type(count) is int and 0 <= count < HUGE for count in counts) and values["images"] > 0


def _is_stretch(values: Mapping[str, Any]) -> bool:
    problems: list[str] = []
    _read(Commit | None, values.get("commit", ...), "commit", problems)
    return not problems


# Comparisons are false for NaN.
Number = Annotated[float, lambda value: abs(value) < HUGE]
Amount = Annotated[float, lambda value: 0 <= value < HUGE]
Fraction = Annotated[float, lambda value: 0 <= value <= 1]
Whole = Annotated[int, lambda value: 0 <= value < HUGE]
Positive = Annotated[int, lambda value: 0 < value < HUGE]
#: One line of characters that can be written to a file.
Line = Annotated[str, is_line]
#: A relative path that stays in its folder.
Name = Annotated[str, _is_name]
#: The folder of a phase, such as ``1_1c1``.
Folder = Annotated[str, lambda value: is_line(value) and re.match(r"\d{1,6}_", value) is not None]
#: sha256 of the files of outcomes, by their names.
Outcomes = Annotated[Mapping[str, str], _are_outcomes]
#: At least ``step``, ``errors`` and ``images``.
Evaluated = Annotated[Mapping[str, Any], _is_evaluation]
#: See :mod:`morphnet.train.stretches`.
Stretch = Annotated[Mapping[str, Any], _is_stretch]
Table = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """Choices of the run; ``variant`` is the same for runs that differ in their seed alone."""

    recipe: Line | None = None
    scale: float = 1.0
    variant: Line = ""
    inputs: Table | None = None
    morphing: Table | None = None


@dataclass(frozen=True)
class Data:
    """The data set: numbers of images for training and for errors, and its normalisation."""

    name: Line
    train_images: Whole
    evaluated_on: Line
    images: Whole
    unreadable: Whole
    mean: tuple[Number, ...]
    std: tuple[Number, ...]


@dataclass(frozen=True)
class Views:
    """Errors over ``count`` views of each image."""

    count: Positive
    error: Fraction
    errors: Whole
    loss: float


@dataclass(frozen=True)
class Lineage:
    """Where a network comes from: its file, its ancestors, and its hash before training (``start``) and after."""

    origin: str | None
    ancestors: tuple[Table, ...]
    start: Line
    network: Line


@dataclass(frozen=True)
class Commit:
    """The commit of the source tree; ``dirty`` with uncommitted changes."""

    hash: str
    dirty: bool


@dataclass(frozen=True)
class Record:
    """One finished phase. Its annotations are the schema of ``record.json``, which the reader checks.

    Attributes:
        label: in words, for tables.
        control: which control it is, as ``controls=`` names it; None for parents and children.
        beside: the index of the child that a control is compared with.
        source: the folder of the phase it started from.
        from_scratch: it began with random weights.
        error, start_error: fractions, at the end and before the first step; ``errors`` counts images.
        steps: 0 for a given network.
        collapsed_macs: of a linear control whose modules can be collapsed, with each of them as one convolution.
        outcomes: None for a phase whose predictions were not kept.
        shared_parent: where another run trained the phase; None if this run did.
        file: where the record was read or written; like ``path`` and ``variation`` not in the file.
        path: of the file as a table links to it.
        variation: what distinguishes the run from others of its experiment.
    """

    experiment: Name
    seed: int
    index: Whole
    phase: Name
    label: Line
    role: Literal["parent", "child", "control"]
    control: Line | None
    beside: Whole | None
    source: Folder | None
    from_scratch: bool
    morph: Any
    settings: Settings
    command: tuple[str, ...]
    error: Fraction
    errors: Whole
    loss: float
    views: Views | None
    start_error: Fraction
    start_loss: float
    train_error: float | None
    train_loss: float | None
    steps: Whole
    lr: float | None
    seconds: Amount
    images_per_second: Amount | None
    resumed: Whole
    gpu_memory_bytes: Whole | None
    training_precision: str
    evaluation_precision: str
    compiled: bool
    processes: Positive
    stretches: tuple[Stretch, ...]
    history: tuple[Evaluated, ...]
    macs: Positive
    parameters: Positive
    collapsed_macs: Positive | None
    collapsed_parameters: Positive | None
    architecture: Table | None
    network: Table | None
    data: Data
    optimisation: Table
    schedule: Table | None
    handover: Table
    augmentation: Table
    lineage: Lineage
    morph_report: str | None
    started: Line
    finished: Line
    versions: Table
    hardware: Table
    commit: Commit | None
    outcomes: Outcomes | None = None
    shared_parent: Table | None = None
    file: Path = Path("record.json")
    path: str = ""
    variation: str = ""

    @property
    def folder(self) -> str:
        """The folder of the phase in its run."""
        return f"{self.index}_{self.phase}"

    @property
    def run_dir(self) -> Path:
        """The directory of the run."""
        return self.file.parents[2]

    @property
    def started_from(self) -> str | None:
        """The hash of the network that the phase started from; None for a parent."""
        return self.lineage.ancestors[-1].get("network") if self.lineage.ancestors else None

    @property
    def group(self) -> tuple[str, str]:
        """Experiment and variant, which runs share that differ in their seed alone."""
        return self.experiment, self.settings.variant

    @property
    def commits(self) -> list[Commit | None]:
        """The commits of all code that made the phase."""
        known = [stretch["commit"] for stretch in self.stretches]
        return [self.commit, *(Commit(**commit) if commit else None for commit in known)]

    def to_dict(self) -> dict[str, Any]:
        """What ``record.json`` holds, as plain values."""
        return {"format": FORMAT} | {key: value for key, value in asdict(self).items() if key not in _NOT_IN_FILE}


_NOT_IN_FILE = ("file", "path", "variation")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and commit of this process, as plain values."""
    return {"versions": _versions(), "hardware": _hardware(device), "commit": _commit(ROOT)}


def names_of(records: Sequence[Record]) -> list[str]:
    """What tables call each network: its label, for a control of a run with several children also its child's."""
    children: dict[tuple[str, str], dict[int, str]] = {}
    for record in records:
        if record.beside is not None:
            children.setdefault(record.group, {}).setdefault(record.beside, f"phase {record.beside}")
        elif record.role == "child":
            children.setdefault(record.group, {})[record.index] = record.label
    names = []
    for record in records:
        known = children.get(record.group, {})
        if record.beside is None or len(known) < 2:
            names.append(record.label)
        else:
            names.append(f"{record.label}, beside {known[record.beside]}")
    return names


def write_record(record: Record, path: Path) -> Record:
    """Writes ``record`` as JSON, whole or not at all, and returns it with its ``file``."""
    write_whole(path, (json.dumps(record.to_dict(), indent=1, allow_nan=False) + "\n").encode())
    return replace(record, file=path)


def read_record(path: Path) -> Record:
    """The record in ``path``.

    Raises:
        ValueError: it is not a record of a format this version reads, or a file of outcomes beside it is not the one it
            names. Every damaged field is named with its value.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable record: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path} is not a record of format {FORMAT}")
    problems: list[str] = []
    record: Record = _read(Record, values, "", problems)
    problems = problems or _contradictions(record) or damaged_outcomes(record.outcomes, path.parent)
    if problems:
        raise ValueError(f"{path} is a damaged record: {', '.join(problems)}")
    return replace(record, file=path)


def read_run(run_dir: Path) -> list[Record]:
    """The records of all finished phases of a run, in their order."""
    records = [read_record(path) for path in run_dir.glob("phases/*/record.json")]
    return sorted(records, key=lambda record: record.index)


_OF_JSON: dict[Any, Any] = {str: str, int: int, float: (int, float), bool: bool, tuple: list, Mapping: dict}
_hints = cache(lambda kind: get_type_hints(kind, include_extras=True))


def _read(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """A value of JSON as an object of type ``hint``; adds to ``problems`` what is missing or cannot be."""
    if type(None) in get_args(hint):
        if value is None:
            return None
        hint = get_args(hint)[0]
    hint, check = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(value, dict):
        return _read_fields(hint, value, f"{where}." if where else "", problems)
    kind = get_origin(hint) or hint
    if kind is Literal:
        valid = value in get_args(hint)
    else:
        valid = isinstance(value, _OF_JSON.get(kind, ())) and (kind is bool or not isinstance(value, bool))
    if not valid or (check is not None and not check(value)):
        shown = repr(value)
        problems.append(f"{where}={shown[:SHOWN]}{'...' * (len(shown) > SHOWN)} cannot be")
    elif kind is tuple:
        return tuple(_read(get_args(hint)[0], item, f"{where}.{i}", problems) for i, item in enumerate(value))
    return value


def _read_fields(kind: Any, values: dict[str, Any], where: str, problems: list[str]) -> Any:
    known = {}
    for field in fields(kind):
        if field.name in values and field.name not in _NOT_IN_FILE:
            known[field.name] = _read(_hints(kind)[field.name], values[field.name], where + field.name, problems)
        elif field.name not in _NOT_IN_FILE:
            problems.append(f"{where}{field.name} is missing")
    return None if problems else kind(**known)


def _contradictions(record: Record) -> list[str]:
    """Fields that contradict others, in words."""
    problems = []
    if record.source is not None and int(record.source.partition("_")[0]) >= record.index:
        problems.append(f"source={record.source!r} cannot be, of phase {record.index}")
    if (record.role == "control") != (record.control is not None) or (record.control is None) != (
        record.beside is None
    ):
        problems.append(f"control={record.control!r}, beside={record.beside!r} cannot be, of a {record.role}")
    return problems


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _hardware(device: torch.device) -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "device": device.type,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return hardware


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    notable = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{model} ({', '.join(notable)})" if notable else model


def _commit(root: Path) -> dict[str, Any] | None:
    """Commit of the source tree in ``root``; without git that of ``MORPHNET_COMMIT``, or None.

    Raises:
        ValueError: the variable holds no commit.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout

    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            changed = git("status", "--porcelain", "--untracked-files=no").strip()
            return {"hash": git("rev-parse", "HEAD").strip(), "dirty": bool(changed)}
    given = os.environ.get("MORPHNET_COMMIT", "")
    if given and not re.fullmatch("[0-9a-f]{40}", given):
        raise ValueError(f"MORPHNET_COMMIT={given!r}: 40 hexadecimal digits are needed, as `git rev-parse HEAD` prints")
    return {"hash": given, "dirty": False} if given else None
