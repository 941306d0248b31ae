"""What the documentation says is there is there, and its Python runs."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]+)\)")


def test_there_are_pages():
    assert PAGES


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs-material is needed: pip install '.[docs]'")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("index", "recipes", "configuration", "api", "results/after_the_morph/index"):
        page = (tmp_path / f"{name}.html").read_text()
        for link in re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', page):
            assert ((tmp_path / f"{name}.html").parent / link).exists(), f"{name} links to {link}"
    assert "trainer.watch_steps" in (tmp_path / "configuration.html").read_text()
    assert "morph_network" in (tmp_path / "api.html").read_text()


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


def test_the_quickstart_runs_and_tells_its_story(capsys):
    runpy.run_path(str(ROOT / "scripts" / "quickstart.py"))
    output = capsys.readouterr().out
    before, after = re.findall(r"^(?:parent|child): (\d+) errors", output, re.MULTILINE)[:2]
    assert before == after
    assert "1 of 1 modules became one convolution" in output
