"""What the documentation says is there is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]+)\)")


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
