import json
import subprocess
import sys
from functools import partial

import pytest


@pytest.fixture
def run(run):
    """Runs ``morphnet graph``; gives exit code, standard output and standard error."""
    return partial(run, "graph")


def test_the_bridge_is_shown_as_text_and_as_pictures(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "morphnet", "graph", "module=bridge"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "module bridge: 5 vertices, 7 edges",
        "s 16, a 16, b 16, c 16, t 16",
        "a-c  3x3",
        "G = c-t ⊛ a-c ⊛ s-a",
        "+ b-t ⊛ s-b",
        "7x7, which holds the parent's 3x3",
        "complex: irreducible as it is",
        "outputs/graph/bridge.png, outputs/graph/bridge.svg",
    ):
        assert part in done.stdout
    assert sorted(path.name for path in tmp_path.glob("outputs/graph/*")) == ["bridge.png", "bridge.svg"]


def test_a_spec_is_a_module_for_an_identity(run, tmp_path):
    code, output, _ = run("morph=3c3", "output=there")
    assert code == 0
    assert "+ 0.5 I" in output
    assert "which holds the parent's 1x1" in output
    assert "2 atomic morphs" in output
    assert sorted(path.name for path in tmp_path.glob("**/*.*")) == ["3c3.png", "3c3.svg"]


def test_json_is_nothing_but_json(run, tmp_path):
    code, output, _ = run("module=inception", "format=json", "pictures=false", "out_channels=32")
    found = json.loads(output)
    assert code == 0
    assert found["simple_morphable"]
    assert found["widths"] == {"s": 16, "a": 32, "b": 16, "c": 16, "d": 16, "t": 32}
    assert found["paths"] == len(found["terms"]) == 4
    assert [step["type"] for step in found["steps"]] == ["II", "II", "II", "I", "I", "I", "I"]
    assert found["pictures"] == []
    assert not list(tmp_path.iterdir())


def test_a_module_of_ones_own_is_found_in_config_dir(run, tmp_path):
    (tmp_path / "my" / "module").mkdir(parents=True)
    (tmp_path / "my" / "module" / "mine.yaml").write_text(
        "edges:\n- {source: s, target: a, kernel: [3, 1]}\n- {source: a, target: t}\nchannels: {a: 0.5x}\n"
    )
    code, output, error = run("--config-dir", "my", "module=mine", "pictures=false")
    assert code == 0, error
    assert "module mine: 3 vertices" in output
    assert "a 8" in output
    assert "too small for the parent's 3x3" in output


def test_a_module_can_be_written_on_the_command_line(run):
    code, output, error = run("module.edges=[{source:s,target:t,kernel:[1,3]},{source:s,target:t}]", "pictures=false")
    assert code == 0, error
    assert "module custom" in output
    assert "s-t.1  1x1" in output


def test_values_of_a_module_can_be_overridden(run):
    _, output, _ = run("module=bridge", "module.edges.0.kernel=[5,1]", "+module.channels.a=2x", "pictures=false")
    assert "s-a  5x1" in output
    assert "a 32" in output


def test_many_paths_are_counted_and_not_all_written(run):
    edges = [f"{{source:{u},target:{v}}}" for u, v in ("sa", "ab", "bc", "ct")] * 2
    _, output, _ = run(f"module.edges=[{','.join(edges)}]", "pictures=false")
    assert "16, whose sum" in output
    assert "+ 4 more" in output


WRONG = [
    ([], "one of the two; got neither"),
    (["module=bridge", "morph=1c1"], "one of the two; got both"),
    (["module=brige"], "did you mean module=bridge?"),
    (["module=null"], "a group cannot be null"),
    (["morph=1c1_hlaf"], "unknown suffix 'hlaf'"),
    (["morph=1c2"], "kernel size 2 is not odd"),
    (["module=bridge", "module.edges.0.kernel=2"], "edge s-a: kernel 2 is not odd"),
    (["module=bridge", "module.edges.0.source=c"], "no cycles; got a -> c -> a"),
    (["module=a", "module.edges.1.target=b"], "sink called 't'"),
    (["module=bridge", "+module.channels.a=0"], "channels of vertex 'a'"),
    (["module=bridge", "+module.channels.q=3"], "no vertex 'q'"),
    (["module=bridge", "module.edges.0.kernl=3"], "there is no key module.edges.0.kernl"),
    (["module.edges=[{source:s}]"], "module.edges[0].target is needed"),
    (["module=bridge", "kernel=4"], "kernel=4 is even"),
    (["module=bridge", "kernel=0"], "kernel=0"),
    (["module=bridge", "kernel=big"], "kernel=big"),
    (["module=bridge", "in_channels=0"], "in_channels=0"),
    (["module=3c3", "out_channels=32"], "identity edge s-t joins 16 and 32 channels"),
    (["module=bridge", "format=xml"], "expected one of text, json"),
    (["module=bridge", "output="], "output is empty"),
    (["+bogus=1", "module=bridge"], "unknown key bogus"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG)
def test_wrong_input_is_one_message_and_no_picture(run, tmp_path, overrides, message):
    code, output, error = run(*overrides)
    assert code == 2
    assert message in error
    assert error.startswith("morphnet: error: ")
    assert output == ""
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "there").write_text("kept")
    code, _, error = run("module=a", "output=there")
    assert code == 2
    assert "there" in error
    assert (tmp_path / "there").read_text() == "kept"


def test_graph_shows_its_composed_configuration(run):
    assert run("module=a", "--cfg", "job")[0] == 0
