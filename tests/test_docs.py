"""What the documentation says is there is there, and its Python runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]+)\)")


def test_there_are_pages():
    assert PAGES


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "results" / "README.md"], ids=lambda p: p.name)
def test_every_link_leads_to_a_file_that_holds_what_it_names(page):
    for text, target in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path = (page.parent / target).resolve()
        assert path.exists(), f"{page.name} links to {target}"
        if path.suffix == ".py":
            source = path.read_text()
            for name in re.findall(r"`([A-Za-z0-9_.]+)`", text):
                defined = rf"^\s*(def|class) {name.split('.')[-1]}\b|^{name} ="
                if name != path.stem:
                    assert re.search(defined, source, re.MULTILINE), f"{target} does not define {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), names)


def test_the_readmes_python_on_any_network_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = next(b for b in BLOCK.findall((ROOT / "README.md").read_text()) if "mobilenet_v2" in b)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["report"].passed
