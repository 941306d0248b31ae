import io
import sys

import pytest

from morphnet.cli.prefix import PrefixedLines, prefix_now, prefixed
from morphnet.train.progress import Progress


def test_every_line_is_passed_on_whole_and_says_its_job():
    stream = io.StringIO()
    lines = PrefixedLines(stream, "digits/seed0: ")
    print("parent:", end="", file=lines)
    assert stream.getvalue() == ""
    print(" step 1\n\nproof", file=lines)
    assert stream.getvalue() == "digits/seed0: parent: step 1\n\ndigits/seed0: proof\n"
    lines.write("cut")
    lines.finish()
    lines.finish()
    assert stream.getvalue().endswith("proof\ndigits/seed0: cut\n")


def test_output_is_as_ever_afterwards_whatever_happens(capsys):
    def fail():
        with prefixed("a: "):
            assert prefix_now() == "a: "
            print("said")
            print("warned", file=sys.stderr)
            raise KeyError

    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError):
        fail()
    assert (sys.stdout, sys.stderr) == before
    assert prefix_now() is None
    with prefixed(None):
        print("plain")
    output, errors = capsys.readouterr()
    assert (output, errors) == ("a: said\nplain\n", "a: warned\n")


def test_no_bar_is_drawn_among_the_lines_of_other_jobs(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with prefixed("a: "):
        progress = Progress("parent", 10, 100)
    assert progress._bar is None
