"""Adds pages to the site: the README, the changes, the results, and the references for configuration and Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
_NOT_RUN = re.compile(r"^<!-- not run: ([^\n]+) -->\n(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the README as the first page, the changes, the results with their pictures, and the generated references."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    files.append(File.generated(config, "CHANGELOG.md", content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    files.append(File.generated(config, "configuration.md", content=configuration()))
    files.append(File.generated(config, "reference.md", content=reference()))
    for path in sorted((ROOT / "results").rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and "records" not in path.parts and path.suffix in (".md", ".png", ".svg", ".json", ".csv"):
            if path.suffix == ".md" and path.name not in ("README.md", "profile.md"):
                continue  # tables that a page contains in full
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Turns links between folders into links of the site, links to code and records into words; marks code not run."""
    text = _NOT_RUN.sub(r"\2\n\n*Not run with this page: \1.*", text)
    text = re.sub(r"\[([^\]]*)\]\((?:\.\./)*[^)\s]*\.py\)", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\((?:\.\./)*(?:results/)?records/[^)\s]*\)", r"\1", text)
    if page.file.src_uri == "index.md":
        return text.replace("](docs/", "](")
    if not page.file.src_uri.startswith("results/"):
        return text.replace("](../results/", "](results/").replace("](../README.md", "](index.md")
    return text.replace("](../../docs/", "](../../").replace("](../docs/", "](../")


def reference() -> str:
    """The docstring of every public name, as Markdown for mkdocstrings."""
    import morphnet

    names = [name for name in morphnet.__all__ if name != "__version__"]
    listed = "\n\n".join(f"::: {getattr(morphnet, name).__module__}.{name}" for name in names)
    return f"# Python reference\n\nEverything here is imported from `morphnet` itself.\n\n{listed}\n"


def configuration() -> str:
    """Every key of every command, as Markdown."""
    from morphnet.cli.reference import GROUPS, SCHEMAS, keys_of, options_of

    lines = [
        "# Configuration",
        "",
        "Every key of every command, as `key=value` on the command line or in a YAML file; made from the",
        "schema. `???` is required. `phases.N` is phase N, from 0; a preset may set other values than these.",
        "A group is a folder of `configs/`; `GROUP=NAME` takes one of its files.",
    ]
    for command in SCHEMAS:
        lines += ["", f"## morphnet {command}", ""]
        for group in GROUPS[command]:
            names = ", ".join(f"`{name}`" for name in options_of(group))
            lines.append(f"- `{group}=` {names}")
        lines += ["", "| key | default | type | |", "|---|---|---|---|"]
        for key in keys_of(command):
            comment = re.sub(r"([][|{}<>])", r"\\\1", key.comment)
            kind = key.type.replace("|", "or")
            lines.append(f"| `{key.name}` | `{key.default}` | `{kind}` | {comment} |")
    return "\n".join(lines) + "\n"
