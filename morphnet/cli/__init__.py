"""The command line: ``morphnet COMMAND key=value ...``.

One file per command; this one runs it and turns an error into one message and an exit code: 0 done, 1 failed, 2 wrong
input, 3 a morph failed its proof or has no exact solution, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module

from morphnet.suggest import suggest

#: Every command and its help; the module of the same name holds its ``main``.
COMMANDS = {
    "train": "train a parent, morph it, train the child on, and print a table",
    "morph": "morph a trained network once, with its proof",
    "eval": "count the errors of a network",
    "collapse": "modules that stayed near linear become one convolution again, for inference",
    "export": "a network for use elsewhere: ONNX, torch.export, or plain PyTorch source",
    "graph": "a module and how it grows from one convolution, as text and picture",
    "flops": "FLOP of every row of the paper's tables, printed and counted",
    "report": "the records of finished runs as one table",
    "completion": "a script for the shell that completes all of this",
}

#: When the command began.
STARTED = time.monotonic()

HELP = """\
morphnet grows a trained convolutional network with its function unchanged.

usage: morphnet COMMAND [key=value ...]

commands:
{commands}

examples:
  morphnet train                                            digits, the embedded default: no download
  morphnet train -m seed=0,1,2                              the same over three seeds, one table
  morphnet train experiment=cifar10_morph20_1c1 data.download=true
  morphnet morph parent=outputs/digits/seed0 morph=1c1_2branch output=grown
  morphnet morph parent=torchvision:resnet18 module=bridge target='layer3.*.conv2' output=bridged
  morphnet eval  parent=grown data=digits
  morphnet export parent=grown format=onnx output=exported
  morphnet graph module=bridge                              a module of configs/module, or morph=3c3
  morphnet flops format=markdown

`morphnet COMMAND --help` lists a command's keys, groups and examples.
HYDRA_FULL_ERROR=1 shows where an error comes from.
"""

#: Options that are passed on to Hydra.
OPTIONS = {
    "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m", "--info", "-i",
    "--config-dir", "-cd",
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:  # the reader of standard output has ended, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # standard output is full or gone
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"morphnet: error: {error}", file=sys.stderr)
        return 1


def _dispatch(arguments: list[str]) -> int:
    if len(arguments) > 1 and arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        listed = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
        print(HELP.format(commands=listed), flush=True)
        return 0 if arguments else 2
    command, *rest = arguments
    if command in ("-V", "--version") or ("--version" in rest and command in COMMANDS):
        from morphnet import __version__

        print(f"morphnet {__version__}")
        return 0
    if command not in COMMANDS:
        known = f"expected one of {', '.join(COMMANDS)}{suggest(command, list(COMMANDS), '{!r}')}"
        return _refuse(f"unknown command {command!r}; {known}")
    if command != "completion":
        if {"-h", "--help"} & set(rest):
            from morphnet.cli.help import help_of

            print(help_of(command), flush=True)
            return 0
        unknown = next((word for word in rest if word.startswith("-") and word.split("=")[0] not in OPTIONS), None)
        if unknown is not None:
            name, _, value = unknown.lstrip("-").replace("-", "_").partition("=")
            setting = f"there is no option {unknown}; settings are key=value: {name}={value or 'true'}"
            return _refuse(f"{setting} (morphnet {command} --help lists them)")
    return _run(command, rest)


def _refuse(message: str) -> int:
    print(f"morphnet: error: {message}", file=sys.stderr)
    return 2


def _run(command: str, rest: list[str]) -> int:
    sys.argv = [f"morphnet {command}", *rest]
    show_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them
    with _safe_path(), _noting_interrupts() as interrupts:
        try:
            import_module(f"morphnet.cli.{command}").main()
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, KeyboardInterrupt) or interrupts:
                what = (str(error) if isinstance(error, KeyboardInterrupt) else "") or "interrupted"
                what += "; the same command goes on" if command == "train" else ""
                print(f"\nmorphnet: {what}", file=sys.stderr)
                return 128 + getattr(error, "signum", signal.SIGINT)
            if show_traceback:
                raise
            from morphnet.cli.errors import exit_code, explain

            print(f"morphnet: error: {explain(error)}", file=sys.stderr)
            return exit_code(error)
    return 0


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Within, Python processes that are started import nothing from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        os.environ.update({} if before is None else {"PYTHONSAFEPATH": before})


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Lists every Ctrl-C: during an import, KeyboardInterrupt may surface as another error."""
    interrupts: list[int] = []

    def interrupt(signum: int, frame: object) -> None:
        interrupts.append(signum)
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
