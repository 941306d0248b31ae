"""Which settings make the same run, and which make a run that differs in its seed alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from morphnet.cli.compose import digest, read_yaml, to_yaml
from morphnet.cli.output import short
from morphnet.config import TrainConfig
from morphnet.settings import PATHS, deciding

#: Keys of images in files alone.
OF_FILES = {"data.crop", "data.shorter_side", "data.eval_shorter_side", "data.views", "data.exif"}


def check_same_run(config: TrainConfig, run_dir: Path) -> None:
    """Refuses a directory whose run has other settings."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        if (run_dir / "phases").exists():
            raise FileExistsError(f"{short(run_dir)} contains phases but no config.yaml, so its settings are unknown")
        return
    before, now = deciding(read_yaml(path)), deciding(asdict(config))
    changed = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise FileExistsError(
            f"{short(run_dir)} holds a run with other settings:\n  "
            + "\n  ".join(changed)
            + "\nkeep it and give another hydra.run.dir=..., or delete it"
        )


def claim(run_dir: Path, config: TrainConfig, inputs: dict[str, str | None]) -> None:
    """Writes what a run is made from, or compares it with what was written when the run began.

    Raises:
        FileExistsError: the run began with other data, another parent, or another number of processes.
        ValueError: what was written is damaged.
    """
    from morphnet.store import write_whole

    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "inputs.json"
    if not path.is_file():
        write_whole(path, (json.dumps(inputs, indent=1) + "\n").encode())
    try:
        before = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{short(path)} is damaged ({error}); delete the run, or put the file back") from error
    if before.get("processes") != inputs["processes"]:
        begun = f"{short(run_dir)} was begun by {before.get('processes')} processes, and there are"
        raise FileExistsError(f"{begun} {inputs['processes']} now; give as many, or another hydra.run.dir=...")
    for what, value in inputs.items():
        if before.get(what) != value:
            raise FileExistsError(
                f"{short(run_dir)} was begun with other content of the {what}; put that back, or give another "
                "hydra.run.dir=..."
            )
    path = run_dir / "config.yaml"
    controls = read_yaml(path).get("controls", []) if path.is_file() else []
    kept = {**asdict(config), "controls": list(dict.fromkeys([*controls, *config.controls]))}
    write_whole(path, to_yaml(kept).encode())


def variant_of(config: TrainConfig, inputs: dict[str, str | None]) -> str:
    """Eight hexadecimal digits of everything but the seed, which runs that differ in their seed alone share."""
    settings = deciding(asdict(config))
    left_out = {*PATHS, "seed"} | (OF_FILES if config.data.crop is None else set())
    return digest(json.dumps([{k: v for k, v in settings.items() if k not in left_out}, inputs], sort_keys=True))
