"""``--help``, shell completion, and the reference both are made from."""

import dataclasses
import shutil
import subprocess
import sys
import time

import pytest

from morphnet.cli import COMMANDS, main
from morphnet.cli.completion import SHELLS, script, words_of
from morphnet.cli.help import help_of
from morphnet.cli.reference import GROUPS, SCHEMAS, keys_of, options_of


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_key_of_the_schema_is_in_the_help_with_its_default(command):
    schema = SCHEMAS[command]
    keys = {key.name: key for key in keys_of(command)}
    text = help_of(command, 200)
    for field in dataclasses.fields(schema):
        assert field.name in keys or any(name.startswith(f"{field.name}.") for name in keys)
    for key in keys.values():
        assert f"  {key.name}={key.default}" in text
        assert key.comment[:60] in text.replace("\n" + " " * 36, " ")
    for group in GROUPS[command]:
        assert options_of(group)
        assert all(option in text for option in options_of(group))


def test_defaults_are_as_a_command_line_writes_them():
    keys = {key.name: key for key in keys_of("train")}
    assert keys["schedule.milestones"].default == "[0.5,0.75]"
    assert keys["parent"].default == "null"
    assert keys["share_parent"].default == "true"
    assert keys["optim.weight_decay"].default == "0.0001"
    assert keys["data.name"].default == "???"
    assert keys["phases.N.morph"].comment == "the spec its network is morphed to first"


@pytest.mark.parametrize("arguments", [["train", "--help"], ["help", "train"], ["train", "seed=1", "-h"]])
def test_help_of_a_command_is_printed_by_any_of_its_forms(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: morphnet train")


def test_help_waits_for_neither_hydra_nor_torch():
    code = (
        "import sys; from morphnet.cli import main; main(['train', '--help']); "
        "assert not {'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)"
    )
    started = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert time.perf_counter() - started < 5  # 0.2 s on a machine that does nothing else


def test_examples_name_presets_and_modules_that_are_there():
    from morphnet.cli.help import ABOUT

    for _, examples in ABOUT.values():
        for arguments, _ in examples:
            for word in arguments.split():
                group, _, name = word.partition("=")
                own = "--config-dir" in arguments  # a module of the user's
                if group in ("experiment", "network", "data") or (group == "module" and not own):
                    assert name in options_of(group)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("morphnet ev", "eval"),
        ("morphnet train experiment=cifar10_resn", "cifar10_resnet110 cifar10_resnet20 cifar10_resnet56"),
        ("morphnet morph module=br", "bridge"),
        ("morphnet train optim.l", "optim.lr= optim.label_smoothing="),
        ("morphnet report tab", "table=runs table=1 table=2 table=3 table=controls table=first_steps"),
        ("morphnet train nothing_like_it", ""),
    ],
)
def test_bash_completes(line, expected):
    steps = f'{script("bash")}\nCOMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _morphnet; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(["bash", "-c", steps], capture_output=True, text=True)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_knows_every_command(shell, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["morphnet"])
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert all(word in text for word in words_of("train"))
    assert all(line.replace("\\'", "").count("'") % 2 == 0 for line in text.splitlines())


def test_an_unknown_shell_is_refused_with_those_there_are(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["morphnet"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    assert main(["completion", "tcsh"]) == 2
    assert "bash|zsh|fish" in capsys.readouterr().err


def test_completion_has_the_values_that_a_comment_lists():
    words = words_of("train")
    assert {"precision=bfloat16", "data.policy=cutout", "morphing.bn=folded", "trainer.compile=true"} <= set(words)
    assert {"schedule.epochs=", "weights=default", "network.depth=", "dry_run=true"} <= set(words)
    assert {"format=html", "table=controls", "verify=true"} <= set(words_of("report"))
    assert {"format=onnx", "format=program", "format=source"} <= set(words_of("export"))


def test_completion_explains_itself(capsys):
    assert main(["completion", "--help"]) == 0
    assert "~/.bashrc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["eval", "parent=x", "trainer.threads=1"],
            "it is a key of morphnet train; morphnet eval --help lists the keys",
        ),
        (["eval", "parent=x", "threads=1"], "OMP_NUM_THREADS=2 morphnet eval ... gives it two threads"),
        (["eval", "parent=x", "optim.lr=1"], "it is a key of morphnet train; morphnet eval --help"),
        (["report", "runs=x"], "did you mean 'records'?"),
        (["eval", "parent=x", "+data.workers=0"], "+data.workers=0: give the group as well, such as data=..."),
        (["train", "data.unreadable=1"], "morphnet train --help lists the keys of this command"),
        (["flops", "qqqq=x"], "morphnet flops --help lists the keys of this command"),
    ],
)
def test_a_key_of_another_command_is_said_to_be_one(capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("sys.argv", [f"morphnet {words[0]}"])
    assert main(words) == 2
    assert message in capsys.readouterr().err
