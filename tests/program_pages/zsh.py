"""The completion for zsh."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from tests.program_pages.programs import KINDS, Option, Program, words_of

_SCRIPT: Final = r"""
#compdef spoactl twistd twist
# Completes spoactl, and "twistd spoa" and "twist spoa". Made by: python -m tests.program_pages

_spoa_endpoints() {
    if compset -P 'unix:'; then
        _files
    else
        compadd -S '' tcp: unix:
    fi
}

# The names of messages are in the spoe.conf of the folder, if there is one.
_spoa_messages() {
    local -a names
    names=(${(f)"$(sed -n 's/^[[:space:]]*spoe-message[[:space:]]\{1,\}\([A-Za-z0-9_.-]\{1,\}\).*/\1/p' \
        spoe.conf 2>/dev/null)"})
    compadd -a names
}

_spoactl_command() {
    local -a commands
    if ((CURRENT == 2)); then
        if [[ $PREFIX == -* ]]; then
            _arguments '--help[show this help message and exit]' '--version[show the versions and exit]'
            return
        fi
        commands=(
@COMMANDS@
        )
        _describe -t commands command commands
        return
    fi
    shift words
    ((CURRENT--))
    case $words[1] in
@SPOACTL@
    esac
}

_spoa_command() {
    local -i place=${words[(i)spoa]}
    if ((place < CURRENT)); then
        shift $((place - 1)) words
        ((CURRENT -= place - 1))
        _arguments -S \
@TWISTD@
    elif ((place == CURRENT || ! $+functions[_twisted])); then
        compadd spoa
        _files
    else
        # The completion for Twisted, a part of zsh. It starts twistd.
        _twisted
    fi
}

_spoactl() {
    case $service in
    spoactl) _spoactl_command ;;
    *) _spoa_command ;;
    esac
}

# As a file of fpath, zsh loads this at the first Tab. Otherwise it is sourced.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _spoactl "$@"
else
    compdef _spoactl spoactl twistd twist
fi
"""


def script(programs: Iterable[Program]) -> str:
    """Return the script."""
    main, *others = programs
    commands = [program for program in others if program.words[0] == main.name]
    (agent,) = [program for program in others if program not in commands]
    names = [f"            {_quote(f'{program.words[1]}:{program.summary}')}" for program in commands]
    cases = [line for program in commands for line in [f"    {program.words[1]})", *_arguments(program), "        ;;"]]
    return (
        _SCRIPT.lstrip()
        .replace("@COMMANDS@", "\n".join(names))
        .replace("@SPOACTL@", "\n".join(cases))
        .replace("@TWISTD@", _continued(_specifications(agent), 12))
    )


def _arguments(program: Program) -> Iterator[str]:
    yield "        _arguments -S \\"
    yield _continued(_specifications(program), 12)


def _continued(lines: Iterable[str], indent: int) -> str:
    return " \\\n".join([" " * indent + _quote(line) for line in lines])


def _specifications(program: Program) -> Iterator[str]:
    arguments = [option for option in program.options if option.is_argument]
    for option in program.options:
        if option.is_argument:
            continue
        first = "*" if option.repeatable else ""
        text = _escape(re.split(r"(?<=[a-z])[.;] ", option.help)[0].removesuffix("."))
        # An option whose value may be left out is completed as if it took none: the next word may be an option.
        takes_value = option.metavar and not option.optional_value
        value = f":{option.metavar}:{_action(option)}" if takes_value else ""
        for flag in option.flags:
            equals = "=" if value and flag.startswith("--") else ""
            yield f"{first}{flag}{equals}[{text}]{value}"
    for number, option in enumerate(arguments, 1):
        place = "*" if option.repeatable else str(number)
        yield f"{place}:{option.metavar}:{_action(option)}"


def _action(option: Option) -> str:
    words = words_of(option)
    if words:
        return f"({' '.join(words)})"
    # A space: the value is not completed.
    return {
        "file": "_files",
        "folder": "_files -/",
        "module": '_files -g "*.py"',
        "endpoint": "_spoa_endpoints",
        "message": "_spoa_messages",
    }.get(KINDS.get(option.metavar, ""), " ")


def _escape(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _quote(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
