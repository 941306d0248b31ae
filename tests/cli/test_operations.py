"""Named layers from the command line: one morph, and phases of a run."""

import json

import pytest
import torch

from morphnet import load_network, save_network
from morphnet.cli import main
from morphnet.cli.operations import layer_morphs, module_of
from morphnet.config import MorphCommandConfig, PhaseConfig
from morphnet.graph import ModuleGraph
from morphnet.morph import Deepen, Enlarge, Widen
from morphnet.nn.graph_conv import GraphConv2d
from morphnet.nn.resnet import ResNet, cifar_architecture
from tests.modules import module
from tests.pictures import write_folder

SHORT = ["schedule.epochs=1", "controls=[]", "optim.batch_size=300", "morphing.calibration_batches=2"]
SMALL = ["data=digits", "calibration_batches=2"]


@pytest.fixture(scope="module")
def network():
    return ResNet(cifar_architecture(8, 10, widths=(4, 8, 8), in_channels=1), torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def saved(network, tmp_path):
    return save_network(network, tmp_path / "n.safetensors")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run of two phases, the second of which morphs layers; its network morphed again; that one trained on."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["morphnet"])
        patch.setenv("HYDRA_FULL_ERROR", "0")
        written = "{edges: [{source: s, target: a, kernel: 3}, {source: a, target: t}], channels: {a: 8}}"
        phases = f"phases=[{{}},{{module: {written}, target: layer1.0.conv2}},{{module: a, target: layer2.0.conv1}}]"
        run = ["train", "network.widths=[4,8,8]", "network.depth=8", phases, *SHORT, "hydra.run.dir=run"]
        assert main(run) == 0
        assert main(["morph", "parent=run", "module=bridge", "target=layer3.0.conv2", *SMALL, "output=grown"]) == 0
        assert main(["train", "parent=grown", "phases=[{morph: null}, {morph: null}]", *SHORT, "hydra.run.dir=on"]) == 0
    return folder


def _record(run, phase):
    return json.loads((run / "phases" / phase / "record.json").read_text())


def test_phases_morph_layers_by_an_inline_module_and_by_its_name(story):
    run = story / "run"
    assert sorted(path.name for path in (run / "phases").iterdir()) == ["0_parent", "1_module_of_2_convolutions", "2_a"]
    first, second = _record(run, "1_module_of_2_convolutions"), _record(run, "2_a")
    assert first["start_error"] == _record(run, "0_parent")["error"]
    assert second["start_error"] == first["error"]
    assert second["label"] == "a on layer2.0.conv1"
    assert second["macs"] > first["macs"] > _record(run, "0_parent")["macs"]
    report = json.loads((run / "phases" / "2_a" / "morph_report.json").read_text())
    assert report["passed"]
    assert report["proof"]["exactness"]["relative"] < 1e-10
    assert report["padding"] == "exact"
    grown = load_network(run / "phases" / "2_a" / "network.safetensors")
    assert [n for n, m in grown.named_modules() if isinstance(m, GraphConv2d)] == ["layer1.0.conv2", "layer2.0.conv1"]
    assert grown.layer1[0].conv2.convs["s-a"].out_channels == 8


def test_a_finished_run_is_morphed_by_a_module(story):
    report = json.loads((story / "grown" / "morph_report.json").read_text())
    assert report["spec"] == "layer3.0.conv2: module of 7 convolutions"
    assert report["parent_hash"] == _record(story / "run", "2_a")["lineage"]["network"]
    assert report["proof"]["exactness"]["relative"] < 1e-10
    child = load_network(story / "grown" / "network.safetensors")
    assert sum(isinstance(m, GraphConv2d) for m in child.modules()) == 3
    assert child.metadata["morphs"][-1] == report["spec"]
    assert child.metadata["lineage"][-1] == {"network": report["parent_hash"], "morph": report["spec"]}


def test_what_was_morphed_is_trained_on(story):
    parent, after = _record(story / "on", "0_parent"), _record(story / "on", "1_trained_on")
    assert parent["errors"] == _record(story / "run", "2_a")["errors"]
    assert parent["steps"] == 0
    assert after["start_error"] == parent["error"]
    assert after["steps"] > 0
    assert after["label"] == "trained on"
    assert after["macs"] == parent["macs"]
    trained = load_network(story / "on" / "phases" / "1_trained_on" / "network.safetensors")
    assert sum(isinstance(m, GraphConv2d) for m in trained.modules()) == 3
    assert after["lineage"]["ancestors"][-1]["phase"] == "parent"


def test_a_module_of_ones_own_stands_in_a_folder(run, saved, tmp_path):
    (tmp_path / "my" / "module").mkdir(parents=True)
    mine = "edges:\n  - { source: s, target: a, kernel: [3, 5] }\n  - { source: a, target: t }\n"
    (tmp_path / "my" / "module" / "mine.yaml").write_text(mine)
    given = ["module=mine", f"parent={saved}", "target=layer3.0.conv?", *SMALL, "output=out"]
    code, output, error = run("morph", "--config-dir", "my", *given)
    assert code == 0, error
    assert "2 layers morphed" in output
    child = load_network(tmp_path / "out" / "network.safetensors")
    assert child.layer3[0].conv1.convs["s-a"].kernel_size == (3, 5)
    phases = "phases=[{morph: null},{module: mine, target: layer1.0.conv1}]"
    code, _, error = run("train", "--config-dir", "my", f"parent={saved}", phases, *SHORT, "hydra.run.dir=run")
    assert code == 0, error
    assert (tmp_path / "run" / "phases" / "1_mine" / "record.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["deepen=3", "method=net2net"], "deepen(3)"),
        (["deepen=[1,3]"], "deepen((1, 3))"),
        (["widen=1.5"], "output channels 4 -> 6"),
        (["enlarge=5"], "kernel 3x3 -> 5x5"),
        (["module.edges=[{source:s,target:a,kernel:3},{source:a,target:t}]", "bn=calibrated"], "2 convolutions"),
    ],
)
def test_every_operation_can_be_asked_for(run, saved, tmp_path, overrides, changed):
    code, _, error = run("morph", f"parent={saved}", "target=layer1.0.conv1", *SMALL, "output=out", *overrides)
    assert code == 0, error
    report = json.loads((tmp_path / "out" / "morph_report.json").read_text())
    assert changed in report["layers"][0]["change"]
    assert report["passed"]
    assert (tmp_path / "out" / "config.yaml").is_file()


@pytest.mark.slow
def test_phases_morph_layers_of_bottlenecks(run, tmp_path):
    phases = "phases=[{},{module: side_1c1, target: 'layer4.*.conv2'},{module: 1c1, target: layer4.1.downsample}]"
    network = ["network=imagenet_resnet50", "network.widths=[2,2,2,2]"]
    code, _, error = run("train", *network, phases, *SHORT, "morphing.bn=calibrated", "hydra.run.dir=run")
    assert code == 0, error
    first, second, third = (_record(tmp_path / "run", name) for name in ("0_parent", "1_side_1c1", "2_1c1"))
    assert second["start_error"] == first["error"]
    assert third["start_error"] == second["error"]
    grown = load_network(tmp_path / "run" / "phases" / "2_1c1" / "network.safetensors")
    assert len([m for m in grown.modules() if isinstance(m, GraphConv2d)]) == 4
    assert grown.layer4[1].downsample.convs["s-a"].out_channels == 8


def test_a_morph_by_names_needs_no_data(run, saved, tmp_path):
    code, output, error = run("morph", f"parent={saved}", "module=a", "target=layer1.0.conv1", "output=out")
    assert code == 0, error
    assert "random normal inputs" in output
    code, _, error = run("morph", f"parent={saved}", "module=a", "target=conv1", "output=no", "input_size=[1,8]")
    assert code == 2
    assert "input_size=[1, 8]" in error


def test_a_torchvision_network_keeps_its_class(run, tmp_path):
    given = ["parent=torchvision:resnet18", "module=1c1", "target=layer3.1.downsample", "input_size=[3,32,32]"]
    code, _, error = run("morph", *given, "output=out")
    assert code == 2
    assert "'layer3.1.downsample' matches no layer" in error
    given = ["parent=torchvision:shufflenet_v2_x1_0", "module=a", "target=stage2.1.branch2.3", "input_size=[3,32,32]"]
    code, _, error = run("morph", *given, "output=out")
    assert code == 0, error
    child = load_network(tmp_path / "out" / "network.safetensors")
    assert type(child).__name__ == "ShuffleNetV2"
    assert isinstance(child.stage2[1].branch2[3], GraphConv2d)
    assert child.metadata["lineage"][0]["source"] == "torchvision:shufflenet_v2_x1_0"


WRONG = [
    (["morph=1c1", "module=a", "target=conv1"], 2, "got both"),
    ([], 2, "got neither"),
    (["target=conv1"], 2, "one of module, deepen, widen, enlarge is needed; got none of them"),
    (["target=conv1", "widen=2", "enlarge=5"], 2, "got widen and enlarge"),
    (["module=a"], 2, "module needs target="),
    (["module=brige", "target=conv1"], 2, "did you mean module=bridge?"),
    (["module=a", "target=layer9.*"], 2, "'layer9.*' matches no layer; did you mean"),
    (["module=a", "target=bn1"], 2, "bn1 cannot be morphed: BatchNorm2d"),
    (["module=a", "target=conv1", "bn=folded"], 2, "bn='folded'"),
    (["module=a", "target=conv1", "init=wurst"], 2, "init='wurst'"),
    (["module=a", "target=conv1", "method=net2net"], 2, "goes with Deepen alone"),
    (["widen=0.5", "target=conv1"], 2, "a factor above 1"),
    (["deepen=2", "target=conv1"], 2, "kernel 2 is not odd"),
    (["enlarge=4", "target=conv1"], 2, "conv1: its kernel is 3x3"),
    (["widen=2", "target=layer1.0.conv2"], 2, "layer1.0.conv2"),
    (["module=a", "target=conv1", "input_size=[1,8,8]"], 2, "goes without data"),
]


@pytest.mark.parametrize(("overrides", "code", "message"), WRONG)
def test_wrong_input_is_one_message_and_nothing_is_written(run, saved, tmp_path, overrides, code, message):
    found, _, error = run("morph", f"parent={saved}", *SMALL, "output=out", *overrides)
    assert message in error
    assert found == code
    assert error.startswith("morphnet: error: ")
    assert not (tmp_path / "out").exists()


def test_no_exact_solution_ends_with_3_and_leaves_only_the_report(run, saved, tmp_path):
    given = [f"parent={saved}", *SMALL, "target=layer1.0.conv1", "module=1c1"]
    code, _, error = run("morph", *given, "output=out")
    assert code == 3
    assert "layer1.0.conv1: no edge can take the whole filter" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["morph_report.json"]
    report = json.loads((tmp_path / "out" / "morph_report.json").read_text())
    assert report["passed"] is False
    assert "layer1.0.conv1" in report["failures"][0]


def test_other_parents_and_folders_are_refused(run, tmp_path):
    given = ["morph", "module=a", "target=conv1"]
    code, _, error = run(*given, "parent=torchvision:resnet19", "output=out")
    assert code == 2
    assert "torchvision:resnet19: expected one of alexnet" in error
    assert "did you mean resnet18?" in error
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    code, _, error = run(*given, "parent=torchvision:resnet18", "output=full")
    assert code == 2
    assert "output=full is not empty" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("{module: brige, target: conv1}", "phases.1.module=brige: there is no such module among"),
        ("{module: a}", "phases.1.module needs phases.1.target="),
        ("{target: conv1}", "phases.1.target=conv1: one of module"),
        ("{module: a, target: layer9}", "nothing is trained: nothing was morphed:\n  'layer9' matches no layer"),
        ("{module: a, target: conv1, morph: 1c1}", "got both phases.1.morph=1c1 and phases.1.module"),
        ("{module: 5, target: conv1}", "phases.1.module=5: a name in configs/module"),
        ("{module: {edges: [{source: s}]}, target: conv1}", "target"),
        ("{widen: 1, target: conv1}", "a factor above 1"),
        (
            "{widen: 2, target: layer2.1.conv2}",
            "phase 1_widen_2 could not begin, so nothing is trained: layer2.1.conv2",
        ),
    ],
)
def test_wrong_phases_are_refused_before_anything_runs(run, tmp_path, phase, message):
    code, _, error = run("train", f"phases=[{{}},{phase}]", *SHORT)
    assert message in error
    assert code == 2
    assert not list(tmp_path.glob("outputs/**/*.*"))


def test_a_module_that_could_not_be_exact_is_refused_before_anything_is_trained(run, tmp_path):
    flat = "{edges: [{source: s, target: a, kernel: 1}, {source: a, target: t, kernel: 1}]}"
    phases = f"phases=[{{}},{{module: {flat}, target: layer2.1.conv1}}]"
    for more in ([], ["dry_run=true"]):
        code, _, error = run("train", phases, *SHORT, *more)
        assert code == 3
        assert "could not begin, so nothing is trained: nothing was morphed, since it could not be exact" in error
    code, _, error = run("train", "phases=[{},{module: a, target: layer2.1.conv1}]", *SHORT, "morphing.method=al")
    assert (code, "morphing.method='al'; expected one of auto, als, net2net" in error) == (2, True)
    assert not list(tmp_path.glob("outputs/**/*.*"))


# Without a command line -----------------------------------------------------------------------------------------------


def test_operations_of_a_configuration():
    assert layer_morphs(PhaseConfig(morph="1c1")) is None
    assert layer_morphs(MorphCommandConfig()) is None
    assert layer_morphs(PhaseConfig(deepen=[1, 3], target="a")) == {"a": Deepen((1, 3))}
    assert layer_morphs(PhaseConfig(widen=2.0, target="a")) == {"a": Widen(2.0)}
    assert layer_morphs(PhaseConfig(enlarge=5, target="a")) == {"a": Enlarge(5)}
    found = layer_morphs(PhaseConfig(module="bridge", target="*.conv2"))
    assert len(found["*.conv2"].convolutions) == 7


def test_the_thin_pair_beside_a_convolution():
    assert module_of("side_1c1") == module("st sa:1x1 at:1x1", channels={"a": "0.5x"})


def test_a_module_is_a_name_or_written_out():
    assert isinstance(module_of("3c3"), ModuleGraph)
    edges = [{"source": "s", "target": "a"}, {"source": "a", "target": "t"}]
    assert module_of({"edges": edges, "channels": {"a": 4}}).widths(2, 3)["a"] == 4
    for wrong in (5, [1], "nothing"):
        with pytest.raises(ValueError, match="module="):
            module_of(wrong)


def test_a_layer_is_morphed_without_the_images_that_its_network_is_for(run, make_network, tmp_path):
    source = save_network(make_network(), tmp_path / "n.safetensors")
    write_folder(tmp_path / "images", classes=10)
    of_images = ["data=folder", "data.path=images", "data.crop=32", "data.eval_shorter_side=36", "data.workers=0"]
    code, _, error = run("morph", f"parent={source}", "morph=1c1", "output=a", "calibration_batches=2", *of_images)
    assert code == 0, error
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    deeper = ["morph", "parent=a", "deepen=1", "target=layer1.0.conv1"]
    code, output, error = run(*deeper, "output=b")
    assert (code, "flips" in output) == (0, True), error
    assert "note: the proof has random inputs, not the images that a is for: data.path=images is not there" in error
    code, _, error = run(*deeper, "output=c", "input_size=[3,32,32]")
    assert (code, error) == (0, "")
    (tmp_path / "a" / "config.yaml").write_text("model: x\ndata: {root: /x}\n")
    (tmp_path / "a" / "morph_report.json").unlink()
    code, _, error = run("eval", "parent=a")
    assert (code, "give data=folder data.path=FOLDER" in error) == (2, True)
