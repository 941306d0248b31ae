"""What a configuration asks to be done to named layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from morphnet.cli.compose import configs_dir
from morphnet.cli.files import load_own
from morphnet.graph import ModuleGraph
from morphnet.suggest import suggest

#: Keys of which one says what becomes of the layers of ``target``.
LAYER_MORPHS = ("module", "deepen", "widen", "enlarge")


def layer_morphs(config: Any, where: str = "") -> dict[str, Any] | None:
    """The patterns of ``config`` and their operations, as ``morph_network`` takes them; None if there are none.

    Args:
        config: has ``morph``, ``target``, ``module``, ``deepen``, ``widen`` and ``enlarge``.
        where: the key that ``config`` stands under, for messages, such as ``phases.1.``.

    Raises:
        ValueError: more than one is given, or one without the other; a module that is none.
    """
    from morphnet.morph import Deepen, Enlarge, Widen

    given = [key for key in LAYER_MORPHS if _is_given(getattr(config, key))]
    if not given and config.target is None:
        return None
    if config.morph is not None:
        found = " and ".join([f"{where}morph={config.morph}", f"{where}{given[0] if given else 'target'}"])
        raise ValueError(
            f"got both {found}: a spec is for the shortcuts of a ResNet, {', '.join(LAYER_MORPHS)} for the layers of "
            "target=; give one of them"
        )
    if len(given) != 1:
        found = "none of them" if not given else " and ".join(given)
        raise ValueError(f"{where}target={config.target}: one of {', '.join(LAYER_MORPHS)} is needed; got {found}")
    if not config.target:
        raise ValueError(f"{where}{given[0]} needs {where}target=, a pattern of layer names such as 'layer3.*.conv2'")
    key, value = given[0], getattr(config, given[0])
    if key == "module":
        operation: Any = module_of(value, f"{where}module")
    elif key == "widen":
        operation = Widen(value)
    else:
        kernel = tuple(value) if isinstance(value, list) else value
        operation = Deepen(kernel) if key == "deepen" else Enlarge(kernel)
    return {config.target: operation}


def _is_given(value: Any) -> bool:
    if is_dataclass(value) and not isinstance(value, type):
        return any(asdict(value).values())
    return value is not None


def module_of(value: Any, key: str = "module") -> ModuleGraph:
    """The module that a configuration names, or writes out as ``{edges: ..., channels: ...}``.

    Raises:
        ValueError: there is no such name, or it is no module.
    """
    if isinstance(value, str):
        value = _file_of(value, key)
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={value!r}: a name in configs/module, or {{edges: [...]}}, is needed")
    return ModuleGraph.from_dict(value)


def _file_of(name: str, key: str) -> dict[str, Any]:
    folders = [Path(configs_dir())]
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders += [Path(source.path) for source in sources if source.schema == "file"]
    known = sorted({path.stem for folder in folders for path in (folder / "module").glob("*.yaml")})
    if name not in known:
        raise ValueError(f"{key}={name}: there is no such module among {', '.join(known)}{suggest(name, known)}")
    path = next(p for folder in reversed(folders) if (p := folder / "module" / f"{name}.yaml").is_file())
    content = load_own(path)
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else {}
