"""A phase as one JSON record: what was measured, and everything that made it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from morphnet.report.damage import damages
from morphnet.report.outcomes import damaged_outcomes
from morphnet.store.files import write_whole

FORMAT = 1
PACKAGES = ("morphnet", "torch", "torchvision", "numpy", "scikit-learn", "hydra-core", "omegaconf", "safetensors")

#: Of the source tree that this package runs from.
ROOT = Path(__file__).resolve().parents[2]

#: Beside the record of a phase that runs share: what makes it. Such a folder is no run.
PHASE_FILE = "phase.json"

#: Beside the record of a phase whose first steps were watched.
WATCH_FILE = "watch.csv"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and commit of this process, as plain values."""
    return {"versions": _versions(), "hardware": _hardware(device), "commit": _commit(ROOT)}


def write_record(record: dict[str, Any], path: Path) -> None:
    """Writes ``record`` as JSON, so that the file is whole or not there."""
    write_whole(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read_record(path: Path) -> dict[str, Any]:
    """The record in ``path``.

    Raises:
        ValueError: it is no record of a format this version reads, or a file of outcomes beside it is not the one it
            names.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable record: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} is not a record of format {FORMAT}")
    problems = damages(record) or damaged_outcomes(record, path.parent)
    if problems:
        raise ValueError(f"{path} is a damaged record: {', '.join(problems)}")
    return record


def read_run(run_dir: Path) -> list[dict[str, Any]]:
    """The records of all finished phases of a run, in their order."""
    found = [read_record(path) for path in run_dir.glob("phases/*/record.json")]
    return sorted(found, key=lambda record: int(record["index"]))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _hardware(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "device": device.type,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


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
