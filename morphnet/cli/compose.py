"""From what Hydra composes to the dataclasses of :mod:`morphnet.config`, and from those to YAML files."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from morphnet.cli.files import check_own_files, refuse_clashes
from morphnet.cli.output import refuse_file
from morphnet.cli.reference import SCHEMAS, configs_dir
from morphnet.config import TrainConfig
from morphnet.settings import FREE_KEYS, is_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def run_job(config_name: str, job: Callable[[DictConfig], None]) -> None:
    """Composes ``configs/<config_name>.yaml`` with the overrides of the command line and calls ``job``.

    An error of ``job`` is raised after Hydra has ended, which would print a line of its own about it.

    Raises:
        ValueError: the command line sets ``hydra.searchpath``, whose files would not be checked.
    """
    register()
    check_own_files()
    refuse_clashes(sys.argv[1:], Path(configs_dir()))
    for word in sys.argv[1:]:
        if word.partition("=")[0].strip(" +~") == "hydra.searchpath":
            raise ValueError(f"{word}: give --config-dir DIR, for files of your own in DIR/module, DIR/experiment, ...")
    errors: list[Exception] = []

    def guarded(config: DictConfig) -> None:
        try:
            job(config)
        except Exception as error:
            if HydraConfig.get().runtime.choices.get("hydra/launcher", "basic") != "basic":
                raise  # in a worker process, whose list is lost
            errors.append(error)

    hydra.main(version_base="1.3", config_path=configs_dir(), config_name=config_name)(guarded)()
    if errors:
        raise errors[0]


@cache
def register() -> None:
    """Registers, once in a process, the schemas and the callback of sweeps with Hydra, and resolvers with OmegaConf."""
    store = ConfigStore.instance()
    for command, schema in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=schema)
    store.store(group="hydra/callbacks", name="sweep", node={"jobs": {"_target_": "morphnet.cli.sweep.Jobs"}})
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("unnamed_keys", lambda: ["experiment", "seed", *FREE_KEYS], replace=True)
    OmegaConf.register_new_resolver("folder", folder, replace=True)


def run_name(name: str, seed: int, overrides: str) -> str:
    """``<experiment>/seed<k>``, with ``-<8 hex>`` of the other overrides if there are any.

    It depends on the command line alone, so that the same command finds the same directory.

    Raises:
        ValueError: ``name`` is not the name of a folder below the output.
    """
    if not all(re.match(r"[^\s.]", part) and is_line(part) for part in name.split("/")):
        raise ValueError(
            f"name={name!r}: a name for a folder is needed, such as name=longer; output= says where it lies"
        )
    return f"{name}/seed{seed}" + (f"-{digest(overrides)}" if overrides else "")


def folder(output: str) -> str:
    """``output``; an empty one is refused, since the run would lie in the root of the file system."""
    if not output:
        raise ValueError("output= is empty; give a folder, such as output=outputs")
    refuse_file(Path(output))
    return output


def digest(text: str) -> str:
    """Eight hexadecimal digits that stand for ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def to_dataclass(config: DictConfig, schema: type[T]) -> T:
    """``config`` as an instance of ``schema``.

    Raises:
        ValueError: a value that has to be given is missing; all of them are named.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError("; ".join(f"{key} is needed: give {key}=..." for key in missing))
    converted = OmegaConf.to_object(config)
    assert isinstance(converted, schema)
    unknown = _unknown_keys(OmegaConf.to_container(config, resolve=True), asdict(converted))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}: '+' does not make it known; --help lists the keys")
    return converted


def _unknown_keys(given: Any, known: Any, prefix: str = "") -> list[str]:
    if not isinstance(given, dict) or not isinstance(known, dict):
        return []
    found = [f"{prefix}{key}" for key in given if key not in known]
    return found + [k for key in known for k in _unknown_keys(given.get(key), known[key], f"{prefix}{key}.")]


class Job(NamedTuple):
    """One job of a sweep: its settings, the directory of its run, and the name of its recipe."""

    config: TrainConfig
    run_dir: Path
    recipe: str | None


def compose_job(sweep: DictConfig, overrides: Sequence[str], number: int) -> Job:
    """Job ``number`` of a sweep, composed as its launcher will compose it."""
    composed = GlobalHydra.instance().config_loader().load_sweep_config(sweep, list(overrides))
    with open_dict(composed):
        composed.hydra.job.num, composed.hydra.job.id = number, f"job_{number}"
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(composed)  # which ${hydra:...} reads
    try:
        run_dir = Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
        recipe = composed.hydra.runtime.choices.get("recipe")
        with open_dict(composed):
            del composed["hydra"]
        return Job(to_dataclass(composed, TrainConfig), run_dir, recipe)
    finally:
        HydraConfig.instance().cfg = before


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML that :func:`read_yaml` reads; what looks like an interpolation is text."""
    return OmegaConf.to_yaml(OmegaConf.create(_as_text(values)), resolve=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The configuration in a file of :func:`to_yaml`, as plain values.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # of OmegaConf, of the YAML reader, or of the file
        raise ValueError(f"{path} is damaged ({error}); delete the run, or put the file back") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is damaged: it holds no configuration; delete the run, or put the file back")
    return {str(key): value for key, value in content.items()}


def from_plain(values: dict[str, Any], schema: type[T]) -> T:
    """An instance of ``schema`` with plain values; what looks like an interpolation is text."""
    composed = OmegaConf.merge(OmegaConf.structured(schema), _as_text(values))
    assert isinstance(composed, DictConfig)
    return to_dataclass(composed, schema)


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_text(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
