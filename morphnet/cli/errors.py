"""What goes wrong as one message: what was given, what is needed, what to try."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from morphnet.cli.reference import GROUPS, SCHEMAS, keys_of

#: Errors that say what is wrong with what was given; anything else is shown with its type.
EXPECTED = (ValueError, TypeError, FileNotFoundError, FileExistsError, FloatingPointError, NotADirectoryError)
#: Those of them that are wrong input.
WRONG_INPUT = (
    HydraException,
    OmegaConfBaseException,
    ValueError,
    TypeError,
    OverflowError,
    FileNotFoundError,
    FileExistsError,
    YAMLError,
)

#: What other programs call things.
OTHER_NAMES = {
    "model": "network",
    "arch": "network",
    "dataset": "data",
    "learning_rate": "optim.lr",
    "gpus": "devices",
    "runs": "records",
}


class SweepError(Exception):
    """Some jobs of a sweep, or processes of a run, failed; ``exit_code`` is the highest of theirs."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def explain(error: BaseException) -> str:
    """The message a person reads."""
    if "Config group override must be a string" in str(error):  # Hydra's, a plain ValueError
        return "a group cannot be null: give one of its names, or leave it out (~group takes it away)"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_hydra(error)
    if isinstance(error, YAMLError):
        return f"a configuration is no YAML: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        goes_on = "goes on from the last checkpoint" if sys.argv[0].endswith(" train") else "can be given again"
        return message + (f"; make room, and the same command {goes_on}" if full else "")
    if _is_of_absent_group(error):
        words = [word for word in sys.argv[1:] if re.match(r"[+~]*\w+\.", word)]
        groups = sorted({word.lstrip("+~").partition(".")[0] for word in words})
        return f"{' '.join(words)}: give the group as well, such as {' '.join(f'{group}=...' for group in groups)}"
    if isinstance(error, EXPECTED) or hasattr(error, "exit_code"):
        return str(error)
    if "DataLoader worker" in str(error):
        return (
            f"a process that decodes images ended ({str(error).splitlines()[0]}): give fewer data.workers, or more "
            "memory (in a container also /dev/shm); the same command goes on from the last checkpoint"
        )
    if is_lost_connection(error):
        return "the other processes of this run are gone; started again, it goes on from the last checkpoint"
    return f"{type(error).__name__}: {error}\n(HYDRA_FULL_ERROR=1 shows where it comes from)"


def _is_of_absent_group(error: BaseException) -> bool:
    """Whether a key was given of a group that is null, which OmegaConf meets with an assertion."""
    return isinstance(error, AssertionError) and "Unexpected type for root" in str(error)


def is_lost_connection(error: BaseException) -> bool:
    """Whether ``error`` only says that another process of the same run is gone."""
    if "RANK" not in os.environ or not isinstance(error, RuntimeError):  # torch's own errors of this kind are such
        return False
    words = ("connection", "gloo", "nccl", "broken pipe", "socket", "peer")
    return any(word in str(error).lower() for word in words)


def exit_code(error: BaseException) -> int:
    """2 for wrong input, 3 for a morph that failed its proof or has no exact solution, 1 for everything else."""
    if hasattr(error, "exit_code"):
        return int(error.exit_code)
    if isinstance(error, WRONG_INPUT) or _is_of_absent_group(error):
        return 2
    return 1


def _explain_hydra(error: BaseException) -> str:
    if isinstance(error, MissingConfigException) and error.options is not None:
        missing = (error.missing_cfg_file or "").rsplit("/", 1)
        group, name = (missing[0], missing[1]) if len(missing) == 2 else ("", missing[0])
        options = sorted(error.options)
        near = difflib.get_close_matches(name, options, 1)
        hint = f"did you mean {group}={near[0]}? " if near else ""
        return f"{group}={name}: there is no such {group}; {hint}There are: {', '.join(options)}"
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    lines: list[str] = []
    for part in chain:
        for line in str(part).splitlines():
            line = line.strip()
            if (
                line
                and line not in lines
                and not line.startswith(
                    ("object_type=", "full_key:", "reference_type=", "See https://hydra.cc", "To append to")
                )
            ):
                lines.append(line)
    message = re.sub(r"^\w+ raised while resolving interpolation: ", "", "\n  ".join(lines))
    listed = re.search(r"Error merging override (\S+)=(\S+)\n.* is not a ListConfig", message)
    if listed and listed[1] == "phases":
        return f"phases={listed[2]}: a list of phases is needed: 'phases=[{{morph: null}},{{morph: {listed[2]}}}]'"
    if listed:
        return f"{listed[1]}={listed[2]}: a list is needed: '{listed[1]}=[{listed[2]}]'"
    if "LexerNoViableAlt" in message or "mismatched input" in message:
        key, _, value = _unreadable_override().partition("=")
        if value and value[0] not in "[{'\"":
            return f"{key}={value}: such a value needs quotes of its own: {key}='\"{value}\"'"
    beyond = re.search(r"Error merging override phases\.(\d+)\.(\S+)\n.* not a subclass of PhaseConfig", message)
    if beyond:
        return (
            f"phases.{beyond[1]}.{beyond[2]}: there is no phase {beyond[1]}, and none can be appended so; give all of "
            "them: 'phases=[{morph: null},{morph: 1c1_half},{morph: 1c1}]'"
        )
    of_phase = re.search(r"Could not override '(morph|module|target|deepen|widen|enlarge)'", message)
    if of_phase and sys.argv[0].endswith(" train"):
        return (
            f"{of_phase[1]}: in train this is of a phase: 'phases=[{{morph: null}},{{morph: 1c1}}]' or "
            "\"phases=[{morph: null},{module: bridge, target: 'layer2.*.conv2'}]\""
        )
    unknown = re.search(r"Key '([^']+)' (?:not in|is not in)", message)
    if unknown:
        whole = re.search(r"Could not override '([^']+)'", message)
        given = whole[1] if whole else unknown[1]
        near = _near(given) or _near(unknown[1])
        if re.fullmatch(r"module\.channels\.\w+", given):
            message += f"\n  the module says nothing of that vertex yet: write +{given}=..."
        elif near:
            message += f"\n  did you mean {' or '.join(map(repr, near))}?"
        else:
            message += _whose(given)
    elif "Error parsing override" in message and "EQUAL" in message:
        message += "\n  an override is key=value, such as seed=1 or dry_run=true"
    return message


def _unreadable_override() -> str:
    """The first word of the command line that Hydra's grammar cannot read; empty if it can read all."""
    parser = OverridesParser.create()
    for word in sys.argv[1:]:
        try:
            parser.parse_override(word)
        except HydraException:
            if not word.startswith("-"):
                return word
    return ""


def _names(command: str) -> set[str]:
    """Every key and group of a command."""
    return {key.name for key in keys_of(command)} | set(GROUPS[command])


def _whose(given: str) -> str:
    """Of which other commands ``given`` is a key, as lines of a message; and where those of this one stand."""
    command = sys.argv[0].rpartition(" ")[2]
    if command not in SCHEMAS:
        return ""
    others = [f"morphnet {other}" for other in SCHEMAS if other != command and given in _names(other)]
    of_others = f"it is a key of {', '.join(others)}; " if others else ""
    threads = f"\n  OMP_NUM_THREADS=2 morphnet {command} ... gives it two threads" if given.endswith("threads") else ""
    return f"\n  {of_others}morphnet {command} --help lists the keys of this command{threads}"


def _near(given: str) -> list[str]:
    """Keys and groups of the command that ``given`` may stand for, best first; none if it is one."""
    command = sys.argv[0].rpartition(" ")[2]
    names = set.union(*map(_names, [command] if command in SCHEMAS else SCHEMAS))
    place = re.search(r"\.\d+\.", given)
    name = re.sub(r"\.\d+\.", ".N.", given)
    name = OTHER_NAMES.get(name, name)
    if name in names:
        return [] if name == given else [name]
    last = sorted((n for n in names if n.endswith(f".{name}")), key=lambda n: (".N." in n, n.startswith("after."), n))
    parts = {n.rpartition(".")[2]: n for n in sorted(names, reverse=True)}
    # What keys of one group share makes them no more alike.
    close = last[:2] or difflib.get_close_matches(name, names, 1, cutoff=0.75 if "." in name else 0.6)
    if not close and "." not in name:
        close = [parts[part] for part in difflib.get_close_matches(name, parts, 1)]
    return [n.replace(".N.", place[0]) if place else n for n in close]
