"""The HTML page of a run: whole by itself, and readable in a real browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from morphnet.config import PhaseConfig, ScheduleConfig, TrainConfig
from morphnet.morph import Deepen
from morphnet.report.contents import Report
from morphnet.report.page import render_page, write_page
from morphnet.report.record import read_record
from morphnet.train import plan_phases, run_experiment
from tests.modules import module
from tests.train.test_shared import ARCHITECTURE, _experiment

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)


class _Outline(HTMLParser):
    """Refuses tags that do not close each other, ids that come twice, and what is loaded from elsewhere."""

    EMPTY = frozenset({"meta", "br", "path", "use", "rect", "line", "circle", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.headings, self.links = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert tag not in ("script", "iframe", "img", "link"), tag
        assert not given.get("href", "#").startswith("http")
        if "href" in given:
            self.links.append(given["href"])
        if "id" in given:
            assert given["id"] not in self.ids, given["id"]
            self.ids.add(given["id"])
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in self.EMPTY:
            return
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3", "summary"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    layers = [None, None, {"layer2.*.conv2": module("sa at st")}, {"layer3.1.conv1": Deepen(3)}]
    phases = [PhaseConfig(), PhaseConfig(morph="1c1"), PhaseConfig(name="module"), PhaseConfig(name="deep")]
    config = TrainConfig(phases=phases, controls=["relu"], schedule=ScheduleConfig(steps=6))
    plans = plan_phases(config, ARCHITECTURE, 3, 60, layers)
    run_experiment(_experiment(folder, trainer={"watch_steps": 4, "watch_every": 2}), plans, ARCHITECTURE, None)
    (folder / "first" / "config.yaml").write_text("name: <first> & only\n")
    paths = sorted((folder / "first" / "phases").glob("*/record.json"))
    return [read_record(path) for path in paths]


def test_a_page_is_well_formed_and_needs_nothing_else(records):
    page = render_page(Report(records))
    outline = _Outline()
    outline.feed(page)
    assert outline.open == []
    assert {"Results", "Beside their controls", "Figures", "First steps after a morph", "Runs"} <= set(outline.headings)
    assert all(link[1:] in outline.ids for link in outline.links if link.startswith("#"))
    assert not re.search(r"url\((?!#)", page)
    assert "name: &lt;first&gt; &amp; only" in page


def test_a_page_shows_modules_proofs_and_lineage(records):
    page = render_page(Report(records))
    assert page.count("Before the morph and after it.") == 3
    assert page.count('<span class="good">passed</span>') == 3
    assert "in float64, before the cast" in page
    chain = re.sub(r" <small>[0-9a-f]{8}</small>", "", page)
    assert "parent → 1c1 → module → <b>deep</b>" in chain
    assert "id 0.5" in page


def test_rows_of_a_run_stand_below_its_name(records):
    page = render_page(Report([replace(record, variation="lr=1") for record in records]))
    heads = re.findall(r'<tr class="group"><th colspan="\d+">first <small>lr=1</small></th></tr>', page)
    for anchor in re.findall(r'<a href="#(phase-[^"]+)">seed 0</a>', page):
        assert page.count(f'id="{anchor}"') == 1
    assert page.count(">seed 0</a>") == 6  # three children and their controls
    assert len(heads) == 2  # results, and controls; the table of first steps has no settings
    assert "<th>experiment</th>" not in page


def test_a_damaged_proof_is_said_and_the_rest_is_there(records, tmp_path):
    place = tmp_path / "run" / "phases" / "1_1c1"
    place.mkdir(parents=True)
    (place / "morph_report.json").write_text('{"proof": {}')
    page = render_page(Report([replace(records[1], file=place / "record.json")]))
    assert "the report of the morph is damaged" in page


def test_odd_names_and_damaged_files_cost_no_page(records, tmp_path):
    place = tmp_path / "run" / "phases" / "1_1c1"
    place.mkdir(parents=True)
    (place / "watch.csv").write_text("steps,loss\n0,1\n")
    (place / "morph_report.json").write_text('{"proof": null}')
    (tmp_path / "run" / "config.yaml").write_bytes(b"name: \xff\n")
    odd = [replace(r, experiment="a<b&c$x_$", file=place / "record.json") for r in records[:2]]
    page = render_page(Report(odd))
    assert "a&lt;b&amp;c$x_$" in page
    assert "watch.csv is damaged: no column step" in page
    assert "the report of the morph is damaged" in page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("width", "options"),
    [pytest.param(1200, (), marks=pytest.mark.slow, id="desk"), pytest.param(390, ("--force-dark-mode",), id="phone")],
)
def test_in_a_browser_the_page_fits_its_window(records, tmp_path, width, options):
    write_page(Report(records), tmp_path / "report.html")
    probe = """<script>
const drawings = [...document.querySelectorAll('svg')];
const seen = drawings.every(drawing => drawing.getBoundingClientRect().width > 100);
document.title = [document.documentElement.scrollWidth, window.innerWidth, seen, drawings.length,
  getComputedStyle(document.body).backgroundColor].join('|');
</script>"""
    page = tmp_path / "probed.html"
    page.write_text((tmp_path / "report.html").read_text().replace("</body>", f"{probe}</body>"))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", *options, "--dump-dom", str(page),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    inside, window, seen, drawn, background = re.search(r"<title>([^<]*)</title>", dom)[1].split("|")
    assert int(inside) <= int(window)
    assert (seen, int(drawn)) == ("true", 6)
    assert background == ("rgb(20, 23, 28)" if options else "rgb(255, 255, 255)")
