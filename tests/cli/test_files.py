"""Files from elsewhere run nothing: neither configurations of one's own, nor saved ones, nor what lies around."""

import os
import subprocess
import sys

import pytest
import yaml

from morphnet import save_network
from morphnet.cli.compose import from_plain, read_yaml, to_yaml
from morphnet.config import DataConfig
from morphnet.nn.resnet import ResNet, cifar_architecture

MODULE = "edges: [{source: s, target: t, kernel: 3}]\n"
#: A public function that runs a command, as a callback of Hydra.
CALLBACK = "{x: {_target_: torch.utils.collect_env.run, command: touch ran}}"


@pytest.fixture
def run(run, tmp_path):
    """Runs a command, which must not run what a file says; gives its exit code and all it says."""

    def call(*arguments):
        code, output, errors = run(*arguments)
        assert not (tmp_path / "ran").exists()
        return code, output + errors

    return call


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"# @package _global_\nhydra: {{callbacks: {CALLBACK}}}\nmodule: {{{MODULE.strip()}}}\n", "hydra"),
        (f"# @package hydra\ncallbacks: {CALLBACK}\n", "@package hydra"),
        (f"{MODULE}channels: {{a: {{_target_: os.system}}}}\n", "channels.a._target_"),
        (f"{MODULE}<<: {{hydra: {{verbose: true}}}}\n", "hydra"),
        ("edges: [{source: '${oc.env:HOME}', target: t}]\n", "edges.0.source: ${oc.env:HOME}"),
        (f"{MODULE}channels: {{'${{oc.env:HOME}}': 1}}\n", "channels.${oc.env:HOME}"),
        ("defaults: [{override /hydra/callbacks: mine}]\n", "defaults: {'override /hydra/callbacks': 'mine'}"),
        ("defaults: [{'/module@hydra.callbacks': bridge}]\n", "defaults: {'/module@hydra.callbacks': 'bridge'}"),
        ("defaults: [/hydra/callbacks/mine]\n", "defaults: '/hydra/callbacks/mine'"),
        ("defaults: [{/module: '${oc.env:HOME}'}]\n", "defaults: {'/module': '${oc.env:HOME}'}"),
        ("defaults: [../train]\n", "defaults: '../train'"),
        (f"a: &a {{kernel: 3}}\nb: *a\n{MODULE}", "*a"),
    ],
)
def test_a_module_of_ones_own_that_says_more_is_refused_by_file_and_key(run, tmp_path, text, named):
    write(tmp_path / "my" / "module" / "fork.yaml", text)
    code, said = run("graph", "--config-dir", "my", "module=fork", "pictures=false")
    assert code == 2
    assert f"my/module/fork.yaml: {named} is refused" in said


@pytest.mark.parametrize("place", ["hydra/config.yaml", "hydra/callbacks/mine.yaml", "graph_schema.yaml"])
def test_a_file_that_lies_in_no_group_is_refused(run, tmp_path, place):
    write(tmp_path / "my" / place, f"callbacks: {CALLBACK}\n")
    chosen = ["+hydra/callbacks=mine"] * ("mine" in place)
    code, said = run("graph", "--config-dir", "my", "module=a", "pictures=false", *chosen)
    assert code == 2
    assert f"my/{place}: a file of your own lies in the folder of a group" in said


def test_a_group_reads_no_file_outside_of_its_folders(run, tmp_path):
    write(tmp_path / "my" / "module" / "fork.yaml", f"# @package hydra\ncallbacks: {CALLBACK}\n")
    code, said = run("graph", f"module={os.path.relpath(tmp_path / 'my/module/fork', '/')}", "pictures=false")
    assert code == 2
    assert "there is no such module" in said
    up = "../" * 30
    code, said = run("graph", f"module={up}{str(tmp_path)[1:]}/my/module/fork", "pictures=false")
    assert code == 2
    assert "the name of a file in module is needed; --config-dir DIR adds your own" in said


def test_a_file_with_the_name_of_a_file_of_the_package_is_refused(run, tmp_path):
    write(tmp_path / "m" / "module" / "bridge.yaml", "edges: [{source: s, target: t, kernel: 3}]\n")
    for option in (["--config-dir", "m"], ["--config-dir=m"]):
        code, error = run("graph", *option, "module=bridge", "pictures=false")
        assert code == 2
        assert "bridge.yaml: the package has a file of this name" in error


def test_a_module_that_a_phase_names_is_checked_as_well(run, tmp_path):
    write(tmp_path / "my" / "module" / "fork.yaml", f"{MODULE}channels: {{a: '${{oc.env:HOME}}'}}\n")
    phases = "phases=[{morph: null},{module: fork, target: layer1.0.conv1}]"
    code, said = run("train", "--config-dir", "my", phases, "dry_run=true")
    assert code == 2
    assert "my/module/fork.yaml: channels.a: ${oc.env:HOME} is refused" in said


def test_an_experiment_of_ones_own_names_groups_and_other_experiments(run, tmp_path):
    groups = "defaults: [{override /recipe: paper}, {override /network: digits_resnet14}, _self_]\n"
    write(tmp_path / "my" / "experiment" / "base.yaml", f"# @package _global_\n{groups}phases: [{{morph: null}}]\n")
    write(tmp_path / "my" / "experiment" / "mine.yaml", "# @package _global_\ndefaults: [base, _self_]\nseed: 3\n")
    code, said = run("train", "--config-dir", "my", "experiment=mine", "--cfg", "job")
    assert code == 0
    composed = yaml.safe_load(said)
    assert (composed["seed"], composed["schedule"]["steps"], composed["network"]["depth"]) == (3, 64000, 14)


@pytest.mark.parametrize("word", ["hydra.searchpath=[my]", "++hydra.searchpath=[pkg://my]", "hydra.searchpath =[my]"])
def test_another_search_path_is_refused(run, word):
    code, said = run("graph", "module=a", word, "pictures=false")
    assert code == 2
    assert f"{word}: give --config-dir DIR" in said


@pytest.mark.parametrize(
    "word",
    [
        "--experimental-rerun", "--experimental-rerun=f", "--experimental-r", "--exp=f", "--config-path=f",
        "--config-p", "-cp", "-cp=f", "--config-name=f", "-cn", "-cnf", "--shell-completion", "-sc", "-mcp", "-x", "--",
    ],
)  # fmt: skip
def test_options_of_hydra_that_are_not_listed_are_refused_however_they_are_written(run, word):
    code, said = run("train", word, "f")
    assert code == 2
    assert f"there is no option {word}; settings are key=value" in said


@pytest.mark.parametrize("words", [["-c", "job"], ["--cfg=job", "-cd", "my"], ["--config-dir=my", "-c=job"]])
def test_options_that_are_listed_work_however_they_are_written(run, tmp_path, words):
    (tmp_path / "my").mkdir()
    code, said = run("graph", "module=a", *words)
    assert code == 0
    assert "pictures: true" in said


@pytest.fixture
def saved(tmp_path):
    """A run with a network, whose configuration a test may write."""
    phase = tmp_path / "run" / "phases" / "0_parent"
    phase.mkdir(parents=True)
    save_network(ResNet(cifar_architecture(8, 10, widths=(4, 4, 4), in_channels=1)), phase / "network.safetensors")
    return lambda **data: (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))


@pytest.mark.parametrize("key", ["path", "crop", "download"])
def test_an_interpolation_in_a_saved_configuration_stays_text(run, saved, monkeypatch, key):
    monkeypatch.setenv("SECRET", "a-secret")
    saved(**{"name": "mine", "path": "mine.npz", key: "${oc.env:SECRET}"})
    code, said = run("eval", "parent=run")
    assert code == 2
    assert "${oc.env:SECRET}" in said
    assert "a-secret" not in said


def test_a_saved_configuration_downloads_nothing(run, saved, monkeypatch):
    import torchvision

    asked = []

    def cifar10(root, train, download):
        asked.append(download)
        raise RuntimeError("not there")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar10)
    saved(name="cifar10", download=True)
    for command in (["eval"], ["collapse", "output=out"], ["morph", "morph=1c1", "output=grown"]):
        code, said = run(*command, "parent=run")
        assert code == 2 or command[0] == "morph"  # which then proves itself on random inputs
        assert "give data=cifar10 data.download=true to fetch it" in said
    assert asked == [False] * 3
    assert run("eval", "parent=run", "data=cifar10", "data.download=true")[0] == 2
    assert asked[3:] == [True]


@pytest.mark.parametrize("text", ["${oc.env:HOME}", r"\${a}", r"a\\${b}\c${d}", "$x {y}", "\\"])
def test_plain_values_come_back_as_they_were(tmp_path, text):
    (tmp_path / "config.yaml").write_text(to_yaml({"data": {"list": [text]}}))
    assert read_yaml(tmp_path / "config.yaml") == {"data": {"list": [text]}}
    assert from_plain({"name": text}, DataConfig).name == text


def test_processes_that_a_command_starts_import_nothing_from_the_current_folder(run, monkeypatch, tmp_path):
    for name in ("queue", "omegaconf"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    started = []

    def start():
        worker = [sys.executable, "-m", "morphnet.cli.workers"]
        started.append(subprocess.run(worker, capture_output=True, text=True))

    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setattr("morphnet.cli.flops.main", start)
    assert run("flops")[0] == 0
    assert "IndexError" in started[0].stderr  # all of it has been imported, and no job is given
    assert os.environ["PYTHONSAFEPATH"] == ""


@pytest.mark.slow
def test_workers_import_nothing_from_the_current_folder(run, tmp_path):
    (tmp_path / "sklearn.py").write_text("open('ran', 'w')")
    short = ["schedule.epochs=1", "trainer.threads=1", "controls=[]", "phases=[{morph: null}]"]
    code, said = run("train", *short, "device=cpu", "devices=2", "trainer.restarts=0")
    assert code == 0, said
