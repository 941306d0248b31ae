"""The morphs of named layers that a command or a phase asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from morphnet.cli.files import load_own
from morphnet.cli.reference import configs_dir
from morphnet.config import ModuleConfig, MorphCommandConfig, PhaseConfig
from morphnet.graph import ModuleGraph
from morphnet.suggest import suggest

#: Exactly one of these keys goes with ``target``.
LAYER_MORPHS = ("module", "deepen", "widen", "enlarge")


def layer_morphs(config: PhaseConfig | MorphCommandConfig, where: str = "") -> dict[str, Any] | None:
    """The pattern in ``config`` and its operation, as ``morph_network`` takes them; None if there is none.

    Args:
        where: the key of ``config`` in messages, such as ``phases.1.``.

    Raises:
        ValueError: more than one operation is given, or an operation without ``target``; or the module is wrong.
    """
    from morphnet.morph import Deepen, Enlarge, Widen

    given = [key for key in LAYER_MORPHS if getattr(config, key) not in (None, ModuleConfig())]
    if not given and config.target is None:
        return None
    if config.morph is not None:
        raise ValueError(
            f"got both {where}morph={config.morph} and {where}{given[0] if given else 'target'}: a spec is for the "
            f"shortcuts of a ResNet, {', '.join(LAYER_MORPHS)} for the layers of target=; give one of them"
        )
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise ValueError(f"{where}target={config.target}: one of {', '.join(LAYER_MORPHS)} is needed; got {got}")
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


def module_of(value: Any, key: str = "module") -> ModuleGraph:
    """The module with a name in configs/module, or of ``{edges: ..., channels: ...}``.

    Raises:
        ValueError: there is no such name, or the module is wrong.
    """
    if isinstance(value, str):
        value = _file_of(value, key)
    if isinstance(value, ModuleConfig):
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
