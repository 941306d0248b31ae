"""``morphnet completion bash|zsh|fish``: a script that completes commands, keys, groups and presets."""

from __future__ import annotations

import re
import sys

from morphnet.cli.reference import GROUPS, keys_of, options_of

SHELLS = ("bash", "zsh", "fish")
USAGE = """\
usage: morphnet completion bash|zsh|fish

  eval "$(morphnet completion bash)"         # in ~/.bashrc
  eval "$(morphnet completion zsh)"          # in ~/.zshrc, after compinit
  morphnet completion fish | source          # in ~/.config/fish/config.fish"""

_VALUES = re.compile(r"(?:^|: )(\w[\w:]*(?: \| \w[\w:]*)+)(?=$|[:;,]| \|)")
_ASIDE = re.compile(r" \([^)]*\)|, [^|:;]*(?= \||$)")

_BASH = """\
_morphnet() {
  local line=${COMP_LINE:0:$COMP_POINT} current command words
  current=${line##* }
  read -r _ command _ <<< "$line"
  [[ $line == *" "*" "* ]] || command=
  case $command in
%s
    *) words="%s" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null
  local begun=${current%%"${current##*=}"}
  COMPREPLY=("${COMPREPLY[@]#"$begun"}")
}
complete -o default -F _morphnet morphnet
"""


def main() -> None:
    """Prints the script for the shell that is named."""
    shell = sys.argv[1] if len(sys.argv) > 1 else ""
    if shell in ("-h", "--help"):
        print(USAGE)
        return
    if shell not in SHELLS:
        raise ValueError(f"{f'unknown shell {shell!r}' if shell else 'a shell is needed'}\n{USAGE}")
    print(script(shell))


def script(shell: str) -> str:
    """The completion script of ``shell``."""
    from morphnet.cli import COMMANDS

    words = {command: words_of(command) for command in GROUPS}
    words["completion"] = list(SHELLS)
    if shell == "fish":
        return _fish(words, COMMANDS)
    cases = "\n".join(f'    {command}) words="{" ".join(values)}" ;;' for command, values in words.items())
    body = _BASH % (cases, " ".join(COMMANDS))
    return "autoload -U +X bashcompinit && bashcompinit\n" + body if shell == "zsh" else body


def words_of(command: str) -> list[str]:
    """Completions of a command: ``key=`` (``key=value`` where its comment lists values), ``group=option``, options."""
    words = [f"{group}={option}" for group in GROUPS[command] for option in options_of(group)]
    for key in keys_of(command):
        if ".N." not in key.name:
            listed = _VALUES.search(_ASIDE.sub("", key.comment))
            values = listed[1].split(" | ") if listed else ["true", "false"] if key.type == "bool" else [""]
            words += [f"{key.name}={value}" for value in values]
    return [*words, "--help", "--cfg", "--config-dir", *(["--multirun"] if command == "train" else [])]


def _fish(words: dict[str, list[str]], commands: dict[str, str]) -> str:
    lines = ["complete -c morphnet -n __fish_use_subcommand -f"]
    for command, what in commands.items():
        help_text = what.replace("'", "\\'")
        lines.append(f"complete -c morphnet -n __fish_use_subcommand -a {command} -d '{help_text}'")
    for command, values in words.items():
        lines.append(f"complete -c morphnet -n '__fish_seen_subcommand_from {command}' -a '{' '.join(values)}'")
    return "\n".join(lines)
