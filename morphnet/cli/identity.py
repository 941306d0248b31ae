"""Whether two configurations describe the same run, and which runs differ in their seed alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from morphnet.cli.compose import digest, read_yaml, to_yaml
from morphnet.cli.output import short
from morphnet.config import TrainConfig
from morphnet.settings import PATHS, deciding

#: What only images in files have.
OF_FILES = {"data.crop", "data.shorter_side", "data.eval_shorter_side", "data.views", "data.exif"}


def check_same_run(config: TrainConfig, run_dir: Path) -> None:
    """Refuses to go on in a directory that another configuration made."""
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
    """Writes down what a run is made from, or compares it with what was written when the run began."""
    from morphnet.store import write_whole

    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "inputs.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{short(path)} is damaged ({error}); delete the run, or put the file back") from error
        if not isinstance(before, dict):
            raise ValueError(f"{short(path)} is damaged (it holds no names); delete the run, or put the file back")
        for what, value in inputs.items():
            if what == "processes" and before.get(what, "1") != value:
                begun = f"{short(run_dir)} was begun by {before.get(what, '1')} processes, and there are {value} now"
                raise FileExistsError(f"{begun}; give as many, or another hydra.run.dir=...")
            if what != "processes" and before.get(what) != value:
                raise FileExistsError(
                    f"{short(run_dir)} was begun with other content of the {what}; put that back, or give another "
                    "hydra.run.dir=..."
                )
    else:
        write_whole(path, (json.dumps(inputs, indent=1) + "\n").encode())
    path = run_dir / "config.yaml"
    before = read_yaml(path).get("controls", []) if path.is_file() else []
    kept = {**asdict(config), "controls": list(dict.fromkeys([*before, *config.controls]))}
    write_whole(path, to_yaml(kept).encode())


def variant_of(config: TrainConfig, inputs: dict[str, str | None]) -> str:
    """Eight hexadecimal digits of everything but the seed: runs that differ in their seed alone share them."""
    settings = deciding(asdict(config))
    left_out = {*PATHS, "seed"} | (OF_FILES if config.data.crop is None else set())
    return digest(json.dumps([{k: v for k, v in settings.items() if k not in left_out}, inputs], sort_keys=True))
