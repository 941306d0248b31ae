"""``morphnet COMMAND --help``: what it does, examples, groups and keys, without waiting for Hydra."""

from __future__ import annotations

import shutil
import textwrap

from morphnet.cli.reference import GROUPS, Key, keys_of, options_of

ABOUT = {
    "train": (
        "Trains a parent, morphs it, trains the children on, and their controls beside them; prints a table. Without "
        "arguments: experiment=digits, which needs no download. The same command again goes on where it stopped.",
        (
            ("", "digits, one seed"),
            ("-m seed=0,1,2", "a sweep: three seeds, one table"),
            ("experiment=cifar10_morph20_1c1 data.download=true", "a row of Table 1"),
            ("experiment=cifar10_morph20_1c1 schedule.scale=0.1 dry_run=true", "what would run, and how long here"),
            ("-m 'experiment=glob(cifar10_*,exclude=*_long)' seed=0,1,2", "Table 1"),
            (
                "experiment=custom parent=net.safetensors data=cifar10 'phases=[{morph: null}, {morph: 1c1}]' "
                "schedule.epochs=30 after=low",
                "grow your own network",
            ),
        ),
    ),
    "morph": (
        "Morphs a trained network once, proves that the child computes the same, and saves it with the proof.",
        (
            ("parent=outputs/digits/seed0 morph=1c1_2branch output=grown", "the residual shortcuts, by a spec"),
            (
                "parent=torchvision:resnet18 module=bridge weights=default target='layer3.*.conv2' output=bridged",
                "layers, by a graph",
            ),
            ("parent=net.th network=cifar_resnet20 data=cifar10 morph=1c1 output=grown", "weights trained elsewhere"),
        ),
    ),
    "eval": (
        "Counts the errors of a network on the test images.",
        (
            ("parent=grown data=digits", "what morphnet morph made"),
            ("parent=outputs/digits/seed0", "the last child of a run, on the run's data"),
            ("parent=grown predictions=grown.npy", "its class of every image, in their order"),
        ),
    ),
    "collapse": (
        "Makes a copy of a network for inference, in which modules whose slopes stayed near 1 are one convolution "
        "each; says what that saves, and what it changes on the test images.",
        (
            ("parent=outputs/digits/seed0 output=small", "the last child of a run, measured on the run's data"),
            ("parent=outputs/digits/seed0 tolerance=0.2 output=small", "also modules that bend more"),
        ),
    ),
    "export": (
        "Writes a network for use elsewhere, loads what it wrote, and checks that it computes the same.",
        (
            (
                "parent=outputs/digits/seed0 format=onnx output=exported",
                "needs onnx, onnxscript, onnxruntime",
            ),
            ("parent=grown format=program output=exported", "torch.export"),
            ("parent=grown format=source output=exported", "model.py and weights.pt, which need no morphnet"),
        ),
    ),
    "graph": (
        "Shows a module, how it reduces to one convolution step by step, and whether a filter can be morphed into it "
        "exactly; as text and picture.",
        (
            ("module=bridge", "a file of configs/module"),
            ("morph=3c3", "the module of a spec"),
            ("module=bridge solve=[sparse,dense]", "filters for a random parent, drawn"),
            ("--config-dir mymodules module=fork", "a module of your own"),
        ),
    ),
    "flops": (
        "Counts the FLOP (multiply-accumulates) of every row of the paper's Tables 1 to 3, beside those printed there.",
        (("", "as text"), ("format=json", "for a program")),
    ),
    "report": (
        "Puts the records of finished runs into tables and figures.",
        (
            ("", "one row for each network of each experiment, over its seeds"),
            ("table=1", "the paper's Table 1 beside what was measured; also 2, 3"),
            ("table=controls", "every child beside its controls"),
            ("records='results/records/**' output=report", "other records; all tables and figures into a folder"),
        ),
    ),
}
OPTIONS = (
    ("-m, --multirun", "a sweep over values separated by commas, ranges, glob(...)", ("train",)),
    ("--cfg job", "show the composed configuration and stop", None),
    ("--config-dir DIR", "also look for groups and presets in DIR", None),
    ("--hydra-help", "what Hydra says of its options, of which some are not taken here", None),
)


def help_of(command: str, width: int | None = None) -> str:
    """What ``morphnet COMMAND --help`` prints."""
    width = width or min(shutil.get_terminal_size((110, 24)).columns, 130)
    about, examples = ABOUT[command]
    lines = [f"usage: morphnet {command} [key=value ...]", "", *textwrap.wrap(about, width), "", "examples:"]
    for arguments, what in examples:
        shown = f"  morphnet {command} {arguments}".rstrip()
        lines += [f"{shown:<58}  # {what}"] if len(shown) <= 58 else [f"  # {what}", shown]
    if GROUPS[command]:
        lines += ["", "groups and presets (GROUP=NAME; their files lie in configs/):"]
        for group in GROUPS[command]:
            lines += _hanging(f"  {group}=", ", ".join(options_of(group)), width, 14)
    said = "keys and their defaults, which presets change (phases.N: of phase N, from 0; --cfg job shows what holds):"
    lines += ["", *textwrap.wrap(said, width)]
    lines += [line for key in keys_of(command) for line in _key(key, width)]
    lines += ["", "options:"]
    for option, what, commands in OPTIONS:
        if commands is None or command in commands:
            lines += [f"  {option:<18} {what}"]
    codes = "0 done, 1 failed, 2 wrong input, 3 a morph failed its proof or has no exact solution, 130 and 143 stopped"
    lines += ["", *textwrap.wrap(f"exit codes: {codes}", width)]
    return "\n".join(lines)


def _key(key: Key, width: int) -> list[str]:
    return _hanging(f"  {key.name}={key.default}", key.comment, width, 36)


def _hanging(head: str, text: str, width: int, column: int) -> list[str]:
    """``head``, then ``text`` from ``column`` on."""
    wrapped = textwrap.wrap(text, max(20, width - column), break_long_words=False, break_on_hyphens=False)
    first = [] if len(head) < column else [head]
    head = "" if first else head
    body = [" " * column + line for line in wrapped] or [""]
    body[0] = head.ljust(column) + body[0].lstrip()
    return [*first, *(line.rstrip() for line in body if line.strip() or not first)]
