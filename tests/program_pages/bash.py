"""The completion for bash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tests.program_pages.programs import KINDS, Option, Program, words_of

#: The names of the other files. bash-completion loads the file that has the name of the program.
OTHER_NAMES: Final = ("twist", "twistd")

#: Their content.
LOAD: Final = """\
# Made by: python -m tests.program_pages
. "${BASH_SOURCE[0]%/*}/spoactl"
"""

_SCRIPT: Final = r"""
# Completes spoactl, and "twistd spoa" and "twist spoa". Made by: python -m tests.program_pages

# Sets "options" to those of the command in $1.
_spoa_options() {
    case $1 in
@OPTIONS@
    *) options="" ;;
    esac
}

# Sets "kind" to what the value of an option is, and "choices" to its words. $1 is the command, $2 the option; without
# $2, it is about the arguments. "kind" is empty if there is no value.
_spoa_value() {
    kind="" choices=""
    case "$1 $2" in
@VALUES@
    esac
}

# Adds the words among $2 ... that begin with $1, each behind "before".
_spoa_add() {
    local start=$1 candidate
    shift
    for candidate; do
        [[ $candidate == "$start"* ]] && COMPREPLY+=("$before$candidate")
    done
}

# Adds files. $1 is the beginning of their names, and the others are options of compgen.
_spoa_add_files() {
    local start=$1 candidate
    shift
    while IFS= read -r candidate; do
        COMPREPLY+=("$before$candidate")
    done < <(compgen "$@" -- "$start")
    compopt -o filenames 2>/dev/null
}

# Completes a value of the kind in $1 that begins with $2.
_spoa_complete() {
    case $1 in
    words) _spoa_add "$2" $choices ;;
    file) _spoa_add_files "$2" -f ;;
    folder) _spoa_add_files "$2" -d ;;
    module)
        _spoa_add_files "$2" -d
        _spoa_add_files "$2" -f -X '!*.py'
        ;;
    endpoint)
        if [[ $2 == unix:* ]]; then
            before+=unix:
            _spoa_add_files "${2#unix:}" -f
        else
            _spoa_add "$2" tcp: unix:
            compopt -o nospace 2>/dev/null
        fi
        ;;
    message)
        # Their names are in the spoe.conf of the folder, if there is one.
        _spoa_add "$2" $(sed -n 's/^[[:space:]]*spoe-message[[:space:]]\{1,\}\([A-Za-z0-9_.-]\{1,\}\).*/\1/p' \
            spoe.conf 2>/dev/null)
        ;;
    esac
}

_spoactl() {
    local IFS=$' \t\n' typed=${COMP_LINE:0:COMP_POINT} word="" command before="" options kind choices
    local split=0 arguments=0 i
    local -a words
    COMPREPLY=()
    # bash also splits words at "=" and ":". These words are split at spaces only.
    read -ra words <<< "$typed"
    if [[ $typed != *[[:space:]] ]]; then
        word=${words[${#words[@]}-1]}
        unset "words[${#words[@]}-1]"
    fi
    # The number of words that name the command.
    case ${1##*/} in
    spoactl)
        split=2
        if ((${#words[@]} < 2)); then
            _spoa_add "$word" @COMMANDS@ --help --version
            return
        fi
        command="spoactl ${words[1]}"
        ;;
    *)
        for ((i = 1; i < ${#words[@]}; i++)); do
            [[ ${words[i]} == spoa ]] && split=$((i + 1))
        done
        if ((split == 0)); then
            _spoa_add "$word" spoa
            compopt -o default 2>/dev/null
            return
        fi
        command="twistd spoa"
        ;;
    esac
    local last=${words[${#words[@]}-1]}
    kind=""
    ((${#words[@]} > split)) && _spoa_value "$command" "$last"
    if [[ -n $kind ]]; then
        _spoa_complete "$kind" "$word"
    elif [[ $word == --*=* ]]; then
        before=${word%%=*}=
        _spoa_value "$command" "${word%%=*}"
        _spoa_complete "$kind" "${word#*=}"
    elif [[ $word == -* ]]; then
        _spoa_options "$command"
        _spoa_add "$word" $options
    else
        # Only some commands take more than one argument.
        for ((i = split; i < ${#words[@]}; i++)); do
            _spoa_value "$command" "${words[i]}"
            if [[ -n $kind ]]; then
                ((++i))
            elif [[ ${words[i]} != -* ]]; then
                ((++arguments))
            fi
        done
        _spoa_value "$command" "argument $((arguments > 0))"
        _spoa_complete "$kind" "$word"
    fi
    # bash replaces the part after the last "=" or ":" only, unless COMP_WORDBREAKS has been changed.
    local sign part strip=""
    for sign in = :; do
        part=${word%"${word##*"$sign"}"}
        [[ $COMP_WORDBREAKS == *"$sign"* ]] && ((${#part} > ${#strip})) && strip=$part
    done
    COMPREPLY=("${COMPREPLY[@]#"$strip"}")
}

complete -F _spoactl spoactl twistd twist
"""


def script(programs: Iterable[Program]) -> str:
    """Return the script."""
    main, *others = programs
    options = [f'    "{program.name}") options="{" ".join(_flags(program))}" ;;' for program in others]
    values = [line for program in others for line in _values(program)]
    commands = [program.words[1] for program in others if program.words[0] == main.name]
    return (
        _SCRIPT.lstrip()
        .replace("@OPTIONS@", "\n".join(options))
        .replace("@VALUES@", "\n".join(values))
        .replace("@COMMANDS@", " ".join(commands))
    )


def _flags(program: Program) -> Iterator[str]:
    for option in program.options:
        # A user who types "-" wants to see long options.
        yield from option.flags[-1:]


def _values(program: Program) -> Iterator[str]:
    arguments = [option for option in program.options if option.is_argument]
    for option in program.options:
        if option.metavar and not option.is_argument and not option.optional_value:
            names = "|".join([f'"{program.name} {flag}"' for flag in option.flags])
            yield f"    {names}) {_kind(option)} ;;"
    for number, option in enumerate(arguments):
        name = f'"{program.name} argument {number}"'
        if option.repeatable and number == 0:
            name += f'|"{program.name} argument 1"'
        yield f"    {name}) {_kind(option)} ;;"


def _kind(option: Option) -> str:
    words = words_of(option)
    if words:
        return f'kind=words choices="{" ".join(words)}"'
    return f"kind={KINDS.get(option.metavar, 'other')}"
