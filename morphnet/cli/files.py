"""The user's own YAML files (``--config-dir DIR``), which are composed with those of the package.

Hydra imports and calls what a file names: callbacks, launchers, resolvers in ``${...}``. So a :class:`FileConfigSource`
reads the user's files and lets them set keys of the configuration alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra._internal.core_plugins.file_config_source as original
import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from morphnet.cli.output import short
from morphnet.cli.reference import GROUPS

#: Folders that own files may lie in, and groups that their ``defaults`` may name.
OWN_GROUPS = sorted({group for groups in GROUPS.values() for group in groups})
INSTEAD = (
    "a file of your own gives keys of the configuration plain values, and its defaults name files of "
    f"{', '.join(OWN_GROUPS)}; give anything else on the command line"
)


class FileConfigSource(original.FileConfigSource):
    """Hydra's class with a check of the user's files; under the same name Hydra does not register its own again."""

    def load_config(self, config_path: str) -> ConfigResult:
        """A file of a group, by ``GROUP/NAME``.

        Raises:
            ValueError: the file is the user's and does more than set keys.
        """
        group, *inside = Path(config_path).parts
        if group == "/" or ".." in (group, *inside):
            raise ValueError(f"{config_path}: the name of a file in {group} is needed; --config-dir DIR adds your own")
        if self.provider != "main":  # which is what compose.py names
            path = Path(self.path, self._normalize_file_name(config_path))
            if not inside or group not in OWN_GROUPS:
                raise ValueError(
                    f"{short(path)}: a file of your own lies in the folder of a group ({', '.join(OWN_GROUPS)}); "
                    "move it there, or take it away"
                )
            load_own(path)
        return super().load_config(config_path)


def check_own_files() -> None:
    """Makes Hydra read files through :class:`FileConfigSource`, also in the processes of a launcher."""
    SourcesRegistry.instance().types["file"] = FileConfigSource


def refuse_clashes(words: Sequence[str], package: Path) -> None:
    """Refuses own files that have the name of a file of the package: one of the two would be ignored.

    Args:
        words: of the command line.
        package: the folder of the package's YAML files.
    """
    for option, folder in itertools.pairwise([*words, ""]):
        name, equals, value = option.partition("=")
        if name in ("--config-dir", "-cd"):
            for path in sorted(Path(value if equals else folder).glob("*/*.yaml")):
                if path.parent.name in OWN_GROUPS and (package / path.parent.name / path.name).is_file():
                    raise ValueError(f"{short(path)}: the package has a file of this name; give yours another one")


def load_own(path: Path) -> Any:
    """A file of the user as plain values.

    Raises:
        ValueError: it does more than set keys; the first such entry is named.
    """
    with path.open(encoding="utf-8") as file:
        package = FileConfigSource._get_header_dict(file.read(512))["package"]  # as Hydra reads it
        file.seek(0)
        for event in yaml.parse(file, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # a few nested ones expand without end
                raise ValueError(f"{short(path)}: *{event.anchor} is refused; write the value out")
        file.seek(0)
        content = OmegaConf.to_container(OmegaConf.load(file))
    refused = [] if package in (None, "_global_", "_group_") else [f"@package {package}"]
    if isinstance(content, dict):
        refused += _beyond_keys({key: value for key, value in content.items() if key != "defaults"})
        given = content.get("defaults") or []
        entries = given if isinstance(given, list) else [given]
        refused += [f"defaults: {entry!r}" for entry in entries if not _is_of_own_groups(entry)]
    if refused:
        raise ValueError(f"{short(path)}: {refused[0]} is refused: {INSTEAD}")
    return content


def _beyond_keys(value: Any, key: str = "") -> Iterator[str]:
    """Entries that Hydra would not keep as plain values."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            whole = f"{key}.{name}" if key else str(name)
            if name in ("hydra", "_target_") or "${" in str(name):
                yield whole
            yield from _beyond_keys(inner, whole)
    elif isinstance(value, str) and "${" in value:
        yield f"{key}: {value}"


def _is_of_own_groups(entry: Any) -> bool:
    """Whether an entry of ``defaults`` is ``_self_``, a file beside this one, or a file of a group at its own place."""
    if not isinstance(entry, str | dict) or re.search(r"@|\.\.", str(entry)) or any(_beyond_keys([entry])):
        return False
    names = [str(key).split()[-1:] for key in entry] if isinstance(entry, dict) else [[entry]] * entry.startswith("/")
    return all(name and name[0].lstrip("/").split("/")[0] in OWN_GROUPS for name in names)
