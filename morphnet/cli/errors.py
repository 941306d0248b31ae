"""Errors as one message for the user: what was given, what is needed, what to try."""

from __future__ import annotations

import errno
import os
import sys

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError
from yaml import YAMLError

from morphnet.cli.reference import GROUPS, SCHEMAS, keys_of
from morphnet.suggest import suggest

#: Errors whose message is for the user; any other is shown with its type.
EXPECTED = (ValueError, TypeError, FileNotFoundError, FileExistsError, FloatingPointError, NotADirectoryError)
#: Errors that mean wrong input.
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

#: Keys of ``morph`` that in ``train`` belong to a phase.
OF_PHASES = ("morph", "module", "target", "deepen", "widen", "enlarge")
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
        return f"a configuration is not valid YAML: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        goes_on = "goes on from the last checkpoint" if sys.argv[0].endswith(" train") else "can be given again"
        return message + (f"; make room, and the same command {goes_on}" if full else "")
    if _is_of_absent_group(error):
        words = [word for word in sys.argv[1:] if "." in word.partition("=")[0]]
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
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        options = sorted(error.options)
        hint = suggest(name, options, f"{group}={{}}")
        return f"{group}={name}: there is no such {group} among {', '.join(options)}{hint}"
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    message = "\n  ".join(dict.fromkeys(line for part in (error, cause) for line in _plain_lines(part)))
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if value and value[0] not in "[{'\"":
            return f"{key}={value}: such a value needs quotes of its own: {key}='\"{value}\"'"
        return message if value else f"{message}\n  an override is key=value, such as seed=1 or dry_run=true"
    command = sys.argv[0].rpartition(" ")[2]
    given = {word.partition("=")[0].lstrip("+~"): word.partition("=")[2] for word in sys.argv[1:]}
    of_phase = next((key for key in given if key in OF_PHASES), None)
    if command == "train" and of_phase is not None:
        return (
            f"{of_phase}: in train this is of a phase: 'phases=[{{morph: null}},{{morph: 1c1}}]' or "
            "\"phases=[{morph: null},{module: bridge, target: 'layer2.*.conv2'}]\""
        )
    key = str(getattr(cause, "full_key", None) or "").replace("[", ".").replace("]", "")
    if isinstance(cause, ValidationError):
        return _explain_value(command, key, given) or message
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        if key.startswith("module.channels."):
            return f"{message}\n  the module says nothing of that vertex yet: write +{key}=..."
        return f"there is no key {key}" + (_near(command, key) or _whose(command, key))
    return message


def _plain_lines(error: BaseException) -> list[str]:
    """The message of an error of Hydra or OmegaConf without what is of no use on a command line."""
    lines = [line.strip() for line in str(error).splitlines()]
    if isinstance(error, OmegaConfBaseException):
        return lines[:1]  # then come the names of classes
    return [line for line in lines if line and not line.startswith(("See https://hydra.cc", "To append to"))]


def _explain_value(command: str, key: str, given: dict[str, str]) -> str:
    """What is wrong with the value of ``key`` where a list is needed; empty if that is not it."""
    types = {known.name: known.type for known in keys_of(command)} if command in SCHEMAS else {}
    if key in given and types.get(key, "").startswith("list") and not given[key].startswith("["):
        if key == "phases":
            return (
                f"phases={given[key]}: a list of phases is needed: 'phases=[{{morph: null}},{{morph: {given[key]}}}]'"
            )
        return f"{key}={given[key]}: a list is needed: '{key}=[{given[key]}]'"
    beyond = next((word for word in given if word.startswith(f"{key}.")), None)
    if key.startswith("phases.") and beyond is not None:
        return (
            f"{beyond}={given[beyond]}: there is no phase {key.removeprefix('phases.')}, and none can be appended so; "
            "give all of them: 'phases=[{morph: null},{morph: 1c1_half},{morph: 1c1}]'"
        )
    return ""


def _names(command: str) -> set[str]:
    """Every key and group of a command."""
    return {key.name for key in keys_of(command)} | set(GROUPS[command])


def _whose(command: str, given: str) -> str:
    """The other commands that have the key ``given``, as lines of a message, and where the keys of this one are."""
    if command not in SCHEMAS:
        return ""
    others = [f"morphnet {other}" for other in SCHEMAS if other != command and given in _names(other)]
    of_others = f"it is a key of {', '.join(others)}; " if others else ""
    threads = f"\n  OMP_NUM_THREADS=2 morphnet {command} ... gives it two threads" if given.endswith("threads") else ""
    return f"\n  {of_others}morphnet {command} --help lists the keys of this command{threads}"


def _near(command: str, given: str) -> str:
    """A line that suggests keys or groups of the command for ``given``; empty if none is close."""
    names = set.union(*map(_names, [command] if command in SCHEMAS else SCHEMAS))
    words = given.split(".")
    place = next((word for word in words if word.isdecimal()), "N")
    name = ".".join("N" if word.isdecimal() else word for word in words)
    name = OTHER_NAMES.get(name, name)
    last = sorted((n for n in names if n.endswith(f".{name}")), key=lambda n: (".N." in n, n.startswith("after."), n))
    if name in names or last:
        near = "; did you mean " + " or ".join(map(repr, [name] if name in names else last[:2])) + "?"
    else:
        parts = {n.rpartition(".")[2]: n for n in sorted(names, reverse=True)}
        # Keys of one group share a prefix, which makes them no more alike.
        near = suggest(name, {**parts, **{n: n for n in names}}, "{!r}", cutoff=0.75 if "." in name else 0.6)
    return near.replace("; ", "\n  ").replace(".N.", f".{place}.")
