"""What the pages show runs, in the order of the page; with the site, part of ``make docs``."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from morphnet.cli import compose, main, operations

pytestmark = pytest.mark.docs

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass
class Block:
    kind: str
    text: str
    not_run: str | None

    @property
    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def _blocks(page):
    return [Block(m["kind"], m["text"], m["why"]) for m in FENCE.finditer(page.read_text())]


def _commands_run(page):
    return [
        words for block in _blocks(page) if block.kind == "sh" and block.not_run is None for words in block.commands
    ]


def _without_rounding(text):
    """``text`` without the digits of numbers of the size of rounding errors, which differ between processors."""
    return re.sub(r"\b\d(\.\d+)?e-1[3-7]\b", "rounding", text)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The configurations, but that the digits are trained for one epoch."""
    folder = tmp_path_factory.mktemp("configs") / "configs"
    shutil.copytree(ROOT / "configs", folder)
    preset = folder / "experiment" / "digits.yaml"
    text = preset.read_text()
    short = text.replace("epochs: 60", "epochs: 1").replace("evaluate_every: 20", "evaluate_every: 1")
    assert short != text
    preset.write_text(short)
    return folder


@pytest.fixture
def here(configs, tmp_path, monkeypatch):
    """A folder to work in, as a user's: nothing in it but what has been measured already."""
    shutil.copytree(ROOT / "results" / "records", tmp_path / "results" / "records")
    for module in (compose, operations):
        monkeypatch.setattr(module, "configs_dir", lambda: str(configs))
    monkeypatch.setattr("sys.argv", ["morphnet"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_on_a_page_is_run_or_says_why_not():
    for page in PAGES:
        for block in _blocks(page):
            first = block.text.lstrip().split(" ")[0]
            assert block.kind or first not in ("morphnet", "python", "make", "pip"), f"{page.name}: {block.text}"
        for words in _commands_run(page):
            assert words[0] == "morphnet", f"{page.name}: {' '.join(words)}"
    assert sum(len(_commands_run(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page, here, capfd, monkeypatch):
    blocks = [block for block in _blocks(page) if block.not_run is None]
    if _commands_run(page) or "outputs/digits/seed0" in page.read_text():
        assert main(["train"]) == 0  # the pages assume that this command was given before
    names: dict[str, object] = {}
    printed = ""
    for block in blocks:
        if block.kind == "yaml" and (path := re.match(r"# (\S+\.yaml)", block.text)):
            (here / path[1]).parent.mkdir(parents=True, exist_ok=True)
            (here / path[1]).write_text(block.text)
        elif block.kind == "python":
            capfd.readouterr()
            exec(compile(block.text, str(page), "exec"), names)
            printed = capfd.readouterr().out
        elif block.kind == "text" and page.name == "README.md":
            assert _without_rounding(printed) == _without_rounding(block.text)
        elif block.kind == "sh":
            for words in block.commands:
                capfd.readouterr()
                monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
                code = main(words[1:])
                output, errors = capfd.readouterr()
                assert code == 0, f"{' '.join(words)}\n{output}{errors}"


def test_the_quickstart_runs_and_tells_its_story(capsys):
    runpy.run_path(str(ROOT / "scripts" / "quickstart.py"))
    output = capsys.readouterr().out
    before, after = re.findall(r"^(?:parent|child): (\d+) errors", output, re.MULTILINE)[:2]
    assert before == after
    assert "1 of 1 modules became one convolution" in output


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs-material is needed: pip install '.[docs]'")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("index", "recipes", "configuration", "api", "reference", "results/after_the_morph/index"):
        page = (tmp_path / f"{name}.html").read_text()
        for link in re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', page):
            assert ((tmp_path / f"{name}.html").parent / link).exists(), f"{name} links to {link}"
    assert "trainer.watch_steps" in (tmp_path / "configuration.html").read_text()
    assert "morph_network" in (tmp_path / "api.html").read_text()
    assert "Not run with this page" in (tmp_path / "training.html").read_text()
