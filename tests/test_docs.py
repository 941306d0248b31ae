"""Names, links and signatures of the documentation exist in the code."""

import inspect
import re
from pathlib import Path

import pytest

import morphnet

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


def test_the_python_page_has_the_signature_of_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    signatures = dict(re.findall(r"^(\w+)\((.*?)\)(?: ->|$)", "\n".join(_blocks(text)), re.MULTILINE | re.DOTALL))
    assert set(morphnet.__all__) - set(signatures) == {"InexactError", "MorphError", "__version__"}
    for name, arguments in signatures.items():
        given = re.findall(r"(?:^|, |,\s+)([a-z_]+)(?==|,|$)", re.sub(r"\([^()]*\)", "", arguments))
        assert given == list(inspect.signature(getattr(morphnet, name)).parameters), name


def _blocks(text):
    return re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
