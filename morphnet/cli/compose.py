"""From a composed configuration to dataclasses: the only place that knows Hydra and OmegaConf types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

import morphnet
from morphnet.config import EvalConfig, FlopsConfig, MorphCommandConfig, ReportConfig, TrainConfig

T = TypeVar("T")


def run_job(config_name: str, job: Callable[[DictConfig], None]) -> None:
    """Composes ``configs/<config_name>.yaml`` with the overrides of the command line and calls ``job``.

    What ``job`` raises is raised here, after Hydra is done, which would print a line of its own about it.
    """
    register()
    errors: list[Exception] = []

    def guarded(config: DictConfig) -> None:
        try:
            job(config)
        except Exception as error:
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


def register() -> None:
    """Puts the schemas into Hydra's store and the name of a run into OmegaConf's resolvers."""
    store = ConfigStore.instance()
    for name, schema in (
        ("train_schema", TrainConfig),
        ("morph_schema", MorphCommandConfig),
        ("eval_schema", EvalConfig),
        ("flops_schema", FlopsConfig),
        ("report_schema", ReportConfig),
    ):
        store.store(name=name, node=schema)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def run_name(name: str, seed: int, overrides: str) -> str:
    """``<experiment>/seed<k>``, with ``-<8 hex>`` of the other overrides if there are any.

    From what was asked for and nothing else, so that the same command finds the same directory.
    """
    return f"{name}/seed{seed}" + (f"-{variant(overrides)}" if overrides else "")


def variant(overrides: str) -> str:
    """Eight hexadecimal digits of the overrides; empty if there are none."""
    return hashlib.sha256(overrides.encode()).hexdigest()[:8] if overrides else ""


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
    return converted


def to_yaml(config: DictConfig) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(config, resolve=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration written by :func:`to_yaml`, as plain values.

    Raises:
        ValueError: the file is damaged.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a configuration")
    return content
