"""From a composed configuration to dataclasses: the only place that knows Hydra and OmegaConf types."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import morphnet
from morphnet.cli.files import check_own_files, refuse_clashes
from morphnet.cli.output import refuse_file
from morphnet.config import (
    CollapseConfig,
    DataConfig,
    EvalConfig,
    ExportConfig,
    FlopsConfig,
    GraphConfig,
    MorphCommandConfig,
    ReportConfig,
    TrainConfig,
)
from morphnet.settings import FREE_KEYS, is_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def run_job(config_name: str, job: Callable[[DictConfig], None]) -> None:
    """Composes ``configs/<config_name>.yaml`` with the overrides of the command line and calls ``job``.

    What ``job`` raises is raised here, after Hydra is done, which would print a line of its own about it.

    Raises:
        ValueError: the command line points Hydra to configurations that nobody checks.
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
                raise  # this is a worker: what is put into a list here is lost
            errors.append(error)

    hydra.main(version_base="1.3", config_path=configs_dir(), config_name=config_name)(guarded)()
    if errors:
        raise errors[0]


def configs_dir() -> str:
    """The folder of the YAML files: beside the modules in a wheel, at the top of a source tree."""
    package = Path(morphnet.__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no configs beside {package}; install morphnet again")


@cache
def register() -> None:
    """Tells Hydra, once in a process, of the schemas and the call before a sweep, OmegaConf of the names of runs."""
    store = ConfigStore.instance()
    for name, schema in (
        ("train_schema", TrainConfig),
        ("morph_schema", MorphCommandConfig),
        ("collapse_schema", CollapseConfig),
        ("eval_schema", EvalConfig),
        ("export_schema", ExportConfig),
        ("flops_schema", FlopsConfig),
        ("graph_schema", GraphConfig),
        ("report_schema", ReportConfig),
    ):
        store.store(name=name, node=schema)
    store.store(group="hydra/callbacks", name="sweep", node={"jobs": {"_target_": "morphnet.cli.sweep.Jobs"}})
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("unnamed_keys", lambda: ["experiment", "seed", *FREE_KEYS], replace=True)
    OmegaConf.register_new_resolver("folder", folder, replace=True)


def run_name(name: str, seed: int, overrides: str) -> str:
    """``<experiment>/seed<k>``, with ``-<8 hex>`` of the other overrides if there are any.

    From what was asked for and nothing else, so that the same command finds the same directory.

    Raises:
        ValueError: ``name`` is no folder below the output.
    """
    if not all(re.match(r"[^\s.]", part) and is_line(part) for part in name.split("/")):
        raise ValueError(
            f"name={name!r}: a name for a folder is needed, such as name=longer; output= says where it lies"
        )
    return f"{name}/seed{seed}" + (f"-{digest(overrides)}" if overrides else "")


def folder(output: str) -> str:
    """``output``, which must not be empty: a run would lie in the root of the file system."""
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


def to_yaml(config: DictConfig) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(config, resolve=True)


def with_data(composed: DictConfig, data: DataConfig | None) -> DictConfig:
    """``composed``, with the data that were used where it leaves that open: what is made is evaluated on the same."""
    if data is None or composed.data is not None:
        return composed
    return from_plain({**plain(composed), "data": asdict(data)})


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration written by :func:`to_yaml`, as plain values.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # of OmegaConf, of the YAML reader, or of the file
        raise ValueError(f"{path} is damaged ({error}); delete the run, or put the file back") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is damaged: it is no configuration; delete the run, or put the file back")
    return {str(key): value for key, value in content.items()}


def from_plain(values: dict[str, Any], schema: type[DataclassInstance] | None = None) -> DictConfig:
    """The opposite of :func:`plain`, of ``schema`` if there is one: what looks like an interpolation stays text."""
    config = OmegaConf.merge({} if schema is None else OmegaConf.structured(schema), _as_text(values))
    assert isinstance(config, DictConfig)
    return config


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_text(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
