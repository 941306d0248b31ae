"""Wrong input: one clear message, a non-zero exit, no traceback, and nothing that was there is lost."""

import errno

import numpy as np
import pytest
from safetensors.torch import save_file

from morphnet import load_network, save_network
from morphnet.cli import main
from morphnet.cli.inputs import load_parent
from morphnet.cli.output import new_folder
from morphnet.nn.resnet import ResNet, cifar_architecture


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("sys.argv", ["morphnet"])

    def call(*arguments):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        code = main(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return code, captured.out, captured.err

    return call


TRAIN = [
    (["sead=1"], "did you mean 'seed'"),
    (["epochs=5"], "did you mean 'schedule.epochs' or 'phases.N.epochs'"),
    (["lr=0.1"], "did you mean 'optim.lr' or"),
    (["model=resnet20"], "did you mean 'network'"),
    (["dataset=cifar10"], "did you mean 'data'"),
    (["experimnt=digits"], "did you mean 'experiment'"),
    (["phases=[{morph: null}, {morf: 1c1}]"], "did you mean 'phases.N.morph'"),
    (["--dry-run"], "no option --dry-run; settings are key=value: dry_run=true"),
    (["experiment=custom"], "give one, such as schedule.epochs=30"),
    (["optim.lrr=1"], "did you mean 'optim.lr'"),
    (["optim.lr=abc"], "abc"),
    (["seed=x"], "Value 'x'"),
    (["phases.1.epocs=3"], "did you mean 'phases.1.epochs'"),
    (["network=cifar_resnet21"], "did you mean network=cifar_resnet20"),
    (["experiment=digitz"], "did you mean experiment=digits"),
    (["recipe=papier"], "did you mean recipe=paper"),
    (["wurst=senf"], "there is no key wurst"),
    (["phases.1.morph=1c1_hlaf"], "unknown suffix 'hlaf'"),
    (["controls=[gelu]"], "expected relu or prelu or linear"),
    (["network.depth=21"], "6n+2"),
    (["data.normalize=mine"], "data.normalize"),
    (["data.validation=299"], "data.validation=299"),
    (["data=cifar10"], "data.download=true"),
    (["data=cifar10", "data.path=none.npz"], "data.path=none.npz"),
    (["data=arrays"], "needs data.path"),
    (["parent=nowhere"], "parent=nowhere"),
    (["device=gpu"], "device='gpu'"),
    (["precision=half"], "precision='half'"),
    (["schedule.steps=5"], "exactly one length"),
    (["schedule.scale=-1"], "schedule.scale=-1"),
    (["optim.batch_size=0"], "optim.batch_size=0"),
    (["morphing.bn=none"], "morphing.bn='none'"),
    (["trainer.evaluate_every=0"], "trainer.evaluate_every=0"),
    (["trainer.threads=0"], "trainer.threads=0"),
    (["morphing.calibration_batches=1"], "calibration_batches=1"),
    (["optim.momentum=2"], "optim.momentum=2"),
    (["optim.weight_decay=-1"], "optim.weight_decay=-1"),
    (["data.pad=-1"], "data.pad=-1"),
    (["seed"], "an override is key=value"),
    (["+epochs=3"], "unknown key epochs"),
    (["+network._target_=os.system"], "unknown key network._target_"),
    (["devices=0"], "devices=0: a number of processes from 1"),
    (["devices=2", "device=cuda:0"], "devices=2 needs as many"),
    (["trainer.restarts=-1"], "trainer.restarts=-1"),
    (["trainer.cuda_graph=maybe"], "trainer.cuda_graph='maybe'"),
    (["trainer.cuda_graph=true", "device=cpu"], "needs one process on one GPU"),
    (["trainer.sync_bn=true", "device=cpu"], "sync_bn=true needs GPUs"),
    (["optim.batch_size_per_process=0"], "batch_size_per_process=0"),
    (["schedule.warmup_steps=-1"], "schedule.warmup_steps=-1"),
    (["phases.1.name=../x"], "it names a folder"),
    (["phases=[{morph:null}]"], "there is no phase after the parent"),
    (["weights=default"], "weights=default"),
    (["device=meta"], "device='meta'"),
    (["data.normalize=[[nan],[1]]"], "data.normalize"),
    (["data=null"], "a group cannot be null"),
    (["name=../x"], "name='../x': a name for a folder is needed"),
    (["name="], "name='': a name for a folder is needed"),
    (["phases.2.morph=1c1"], "there is no phase 2, and none can be appended so; give all of them: 'phases=["),
    (["phases=1c1"], "a list of phases is needed: 'phases=[{morph: null},{morph: 1c1}]'"),
    (["schedule.epochs=1e30"], "below 1e+12 steps, is needed"),
    (["controls=prelu"], "a list is needed: 'controls=[prelu]'"),
    (["schedule.milestones=0.5"], "a list is needed: 'schedule.milestones=[0.5]'"),
    (["phases.1.target=conv1"], "got both phases.1.morph=1c1 and phases.1.target"),
]


@pytest.mark.parametrize(("overrides", "message"), TRAIN)
def test_train_refuses_wrong_input_before_it_makes_anything(run, tmp_path, overrides, message):
    code, _, error = run("train", *overrides)
    assert code == 2
    assert message in error
    assert error.startswith("morphnet: error: ")
    assert not list(tmp_path.glob("outputs/**/*.*"))


def test_a_missing_key_is_named(run):
    code, _, error = run("morph")
    assert code == 2
    for key in ("parent", "output"):
        assert f"{key} is needed" in error


@pytest.fixture
def saved(make_network, tmp_path):
    return save_network(make_network(in_channels=1), tmp_path / "n.safetensors")


MORPH = [
    (["morph=1c1_hlaf"], 2, "unknown suffix"),
    (["morph=1c1", "bn=none"], 2, "bn='none'"),
    (["morph=1c1", "data=cifar10"], 2, "data.download=true"),
    (["morph=1c1", "split=0"], 2, "split=0"),
    (["morph=1c1", "module=bridge"], 2, "got both morph=1c1 and module"),
    (["morph=1c1", "calibration_batches=1"], 2, "calibration_batches=1"),
]


@pytest.mark.parametrize(("overrides", "code", "message"), MORPH)
def test_morph_refuses_wrong_input(run, saved, tmp_path, overrides, code, message):
    found, _, error = run("morph", f"parent={saved}", "data=digits", "output=out", *overrides)
    assert found == code
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_source_that_does_not_say_its_data_needs_some(run, saved):
    for command in (["morph", "morph=1c1", "output=out"], ["eval"]):
        code, _, error = run(*command, f"parent={saved}")
        assert code == 2
        assert "does not say what data it is for" in error


def test_a_network_that_was_trained_on_the_digits_needs_no_words_for_them(run, saved, tmp_path):
    assert run("morph", f"parent={saved}", "data=digits", "morph=1c1", "output=out")[0] == 0
    code, output, _ = run("eval", "parent=out")
    assert (code, "of 1,497" in output) == (0, True)
    network = load_network(tmp_path / "out" / "network.safetensors")
    network.metadata["data"] = "cifar10"
    save_network(network, tmp_path / "c.safetensors")
    code, _, error = run("eval", "parent=c.safetensors")
    assert (code, "parent=c.safetensors was trained on cifar10: give data=cifar10" in error) == (2, True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:resnet1", "did you mean resnet18?"),
        ("README.md", "is no network: a run, or a file of .safetensors"),
        ("outputs", "there are runs in it, such as parent=outputs/mine/seed0"),
    ],
)
def test_what_is_no_network_is_not_asked_for_its_data(run, tmp_path, source, message):
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "outputs" / "mine" / "seed0").mkdir(parents=True)
    (tmp_path / "outputs" / "mine" / "seed0" / "config.yaml").write_text("name: mine")
    code, _, error = run("eval", f"parent={source}")
    assert (code, message in error) == (2, True), error


def test_an_output_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, error = run("train", "output=file/below")
    assert (code, "file is a file; give a folder" in error) == (2, True)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_commands_do_not_share_an_output(tmp_path):
    with new_folder(str(tmp_path / "out")) as output:
        with pytest.raises(FileExistsError, match="another command is at work there"), new_folder(str(output)):
            pass
        (output / "made").write_text("whole")
    assert [path.name for path in output.iterdir()] == ["made"]
    with pytest.raises(FileExistsError, match="is not empty"), new_folder(str(output)):
        pass
    with pytest.raises(ValueError, match="wrong"), new_folder(str(tmp_path / "other")):
        raise ValueError("wrong")
    assert not (tmp_path / "other").exists()


def test_a_text_that_is_called_npz_is_said_to_be_none(run, tmp_path):
    (tmp_path / "t.npz").write_text("words")
    code, _, error = run("train", "data=arrays", "data.path=t.npz")
    assert (code, "data.path=t.npz is no .npz, or not whole: arrays saved" in error) == (
        2,
        True,
    )


def test_images_of_another_number_of_channels_are_not_exported(run, saved):
    code, _, error = run("export", f"parent={saved}", "output=out", "input_size=[3,8,8]", "format=source")
    assert (code, "takes images of 1 channels" in error) == (2, True)


def test_a_vertex_that_the_module_does_not_name_is_added_by_a_plus(run):
    code, _, error = run("graph", "module=bridge", "module.channels.b=3")
    assert (code, "write +module.channels.b=..." in error) == (2, True)


def test_a_warm_up_as_long_as_its_phase_is_said(run):
    _, _, error = run("train", "dry_run=true", "schedule.warmup_steps=100", "schedule.epochs=1", "controls=[]")
    assert error.count("its warm-up, 100 steps, is as long as the phase or longer") == 2


@pytest.mark.parametrize("command", [["eval"], ["morph", "morph=1c1", "output=out"], ["collapse", "output=out"]])
def test_a_key_of_a_group_that_is_not_given_is_said_to_be_one(run, saved, monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["morphnet", *command])
    code, _, error = run(*command, f"parent={saved}", "data.validation=100")
    assert (code, "data.validation=100: give the group as well, such as data=..." in error) == (2, True)


def test_a_value_that_needs_quotes_is_shown_with_them(run):
    code, _, error = run("report", "output=a b/ü")
    assert (code, "needs quotes of its own: output='\"a b/ü\"'" in error) == (2, True)
    code, _, error = run("train", "phases=[{morph: null},{morph: 1c1}]", "output=a b/ü")
    assert (code, error.startswith("morphnet: error: output=a b/ü: such a value needs quotes")) == (2, True), error
    code, _, error = run("train", "phases=[{morph: null},{morph: 1c1}")
    assert (code, "quotes of its own" in error) == (2, False)


def test_a_disk_that_is_full_leaves_no_half_of_a_morph(run, saved, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "network.safetensors")

    monkeypatch.setattr("morphnet.store.saved.write_whole", full)
    code, _, error = run("morph", f"parent={saved}", "data=digits", "morph=1c1", "output=out")
    assert (code, "make room, and the same command can be given again" in error) == (1, True), error
    assert not (tmp_path / "out").exists()


def test_keys_of_a_morph_are_of_a_phase_in_train(run):
    for given in ("module=bridge", "target=conv1", "morph=1c1"):
        code, _, error = run("train", given)
        assert (code, "in train this is of a phase: 'phases=[{morph: null}" in error) == (2, True)


def test_images_of_a_state_dict_come_from_its_data(run, make_network, tmp_path):
    save_file(make_network(in_channels=1).state_dict(), tmp_path / "w.safetensors")
    small = ["network=cifar_resnet20", "network.depth=14", "network.widths=[4,8,16]"]
    code, output, error = run("export", "parent=w.safetensors", *small, "data=digits", "output=out", "format=source")
    assert code == 0, error
    assert "checked" in output


def test_morph_writes_nothing_over_what_is_there(run, saved, tmp_path):
    arguments = ["morph", f"parent={saved}", "data=digits", "morph=1c1", "output=out"]
    assert run(*arguments)[0] == 0
    before = (tmp_path / "out" / "network.safetensors").read_bytes()
    code, _, error = run(*arguments)
    assert code == 2
    assert "is not empty" in error
    assert (tmp_path / "out" / "network.safetensors").read_bytes() == before


def test_a_morph_that_fails_its_proof_ends_with_3_and_leaves_only_the_report(run, saved, tmp_path, monkeypatch):
    import morphnet.morph.verify as verify

    monkeypatch.setattr(verify, "EXACT_TOLERANCE", 0.0)
    code, _, error = run("morph", f"parent={saved}", "data=digits", "morph=1c1", "output=out")
    assert code == 3
    assert "failed its proof" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["morph_report.json"]


def test_data_that_does_not_fit_the_network_is_refused(run, saved, tmp_path):
    images = np.zeros((20, 8, 8, 3), np.uint8)
    labels = np.arange(20) % 10
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    code, _, error = run("eval", f"parent={saved}", "data=arrays", "data.path=a.npz")
    assert code == 2
    assert "1 image channels" in error


def test_morph_into_a_run_directory_is_refused(run, saved, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("kept")
    for output in ("run", ""):
        code, _, error = run("morph", f"parent={saved}", "data=digits", "morph=1c1", f"output={output}")
        assert code == 2
        assert "output" in error
    assert (tmp_path / "run" / "config.yaml").read_text() == "kept"


def test_a_network_of_nan_is_no_result(run, make_network, tmp_path):
    network = make_network(in_channels=1)
    network.linear.weight.data.fill_(float("nan"))
    save_network(network, tmp_path / "nan.safetensors")
    code, _, error = run("eval", "parent=nan.safetensors", "data=digits")
    assert code == 1
    assert "computes nan" in error


def test_a_network_of_another_dtype_can_be_evaluated(run, make_network, tmp_path):
    save_network(make_network(in_channels=1).double(), tmp_path / "d.safetensors")
    assert run("eval", "parent=d.safetensors", "data=digits")[0] == 0


@pytest.mark.parametrize("command", ["flops", "report"])
def test_an_unknown_format_is_refused(run, command):
    code, _, error = run(command, "format=xml")
    assert code == 2
    assert "expected one of text, markdown, csv, latex, json" in error


def test_a_report_of_nothing_says_so(run):
    code, _, error = run("report")
    assert code == 2
    assert "no finished phase" in error


@pytest.mark.parametrize("words", ['name="a\nb"', 'name="a\tb"', 'data.name="a\nb"'])
def test_a_name_that_no_table_can_show_is_refused_before_anything_is_trained(run, tmp_path, words):
    code, _, error = run("train", words)
    assert code == 2
    assert "is needed, such as" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "morph", "eval", "flops", "report"])
def test_every_command_shows_its_composed_configuration(run, command):
    code, output, _ = run(command, "--cfg", "job")
    assert code == 0
    assert ":" in output


def test_a_sweep_without_a_job_says_so(run):
    code, _, error = run("train", "-m", "experiment=glob(nix*)")
    assert code == 2
    assert "the sweep has no job" in error


def test_an_unknown_command_suggests_the_nearest(run):
    code, _, error = run("trian")
    assert code == 2
    assert "did you mean 'train'?" in error
    assert run()[0] == 2
    assert run("--help")[0] == 0
    assert run("--version")[1].startswith("morphnet ")


def test_a_config_that_names_code_is_refused_and_nothing_runs(run, tmp_path):
    target = tmp_path / "ran"
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    evil = f'{{_target_: os.system, command: "touch {target}"}}'
    (tmp_path / "mine" / "experiment" / "evil.yaml").write_text(f"# @package _global_\nnetwork: {evil}\n")
    code, _, error = run("train", "--config-dir", "mine", "experiment=evil")
    assert code == 2
    assert "mine/experiment/evil.yaml: network._target_ is refused" in error

    phase = tmp_path / "run" / "phases" / "0_parent"
    phase.mkdir(parents=True)
    save_network(ResNet(cifar_architecture(8, 10, widths=(4, 4, 4), in_channels=1)), phase / "network.safetensors")
    (tmp_path / "run" / "config.yaml").write_text(f"data: {evil}\n")
    code, _, error = run("eval", "parent=run")
    assert code == 2
    assert "config.yaml is damaged: its data is not a data set" in error
    assert not target.exists()


def test_what_is_not_given_comes_from_the_digits_and_a_run_on_other_data_says_so(run, tmp_path):
    images, labels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8), np.arange(4) % 2
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    mine = ["data=arrays", "data.path=d.npz", "dry_run=true", "phases=[{morph:null}]", "controls=[]"]
    _, _, error = run("train", *mine, "optim.batch_size=2")
    assert "note: unset keys, including name, come from experiment=digits" in error
    _, _, error = run("train", *mine, "optim.batch_size=2", "experiment=custom", "schedule.epochs=1")
    assert "experiment=digits" not in error


def test_random_weights_of_torchvision_are_said_without_data_too(capsys):
    load_parent("torchvision:resnet18", None, None, "none")
    assert "torchvision:resnet18 has random weights" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_not_asked_for_its_data(run):
    for command in (["morph", "morph=1c1", "output=out"], ["eval"]):
        code, _, error = run(*command, "parent=nowhere")
        assert code == 2
        assert "parent=nowhere: there is no such file or folder" in error
