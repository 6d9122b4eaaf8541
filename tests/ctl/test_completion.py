"""``spoactl completion``: the scripts, in real shells."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoa_twisted.ctl.completion import SCRIPTS, parser, run, script
from tests.ctl.terminal import Terminal
from tests.examples.example import require_program
from tests.programs import ROOT

FOLDER = ROOT / "spoa_twisted" / "ctl" / "completion"

#: Calls the function as bash does at a Tab, and prints the replies, each in a line.
CALL = """\
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_spoactl "$3"
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with handlers and a configuration."""
    (tmp_path / "iprep.py").touch()
    (tmp_path / "agents").mkdir()
    (tmp_path / "haproxy.cfg").touch()
    (tmp_path / "spoe.conf").write_text(
        "spoe-agent a\n  messages check-ip check-token\n"
        "spoe-message check-ip\n    args src\n  spoe-message\tcheck-token # comment\n"
        "spoe-message $(touch${IFS}injected)\n"
    )
    return tmp_path


def replies(line: str, folder: Path) -> list[str]:
    """Return what bash proposes for the end of ``line``."""
    command = [require_program("bash", "bash"), "-uc", CALL, "bash", f"{FOLDER}/bash/spoactl", line, line.split()[0]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("spoactl che", ["check"]),
        ("spoactl re", ["reload"]),
        ("spoactl xyzzy", []),
        ("spoactl --v", ["--version"]),
        ("spoactl check --ig", ["--ignore"]),
        ("spoactl check --ignore event-tw", ["event-twice"]),
        # bash replaces what follows the last "=" or ":".
        ("spoactl check --ignore=event-tw", ["event-twice"]),
        ("spoactl check --json ha", ["haproxy.cfg"]),
        ("spoactl check spoe.conf ha", ["haproxy.cfg"]),
        ("spoactl check --version 2", ["2.6", "2.8"]),
        ("spoactl check --handlers ", ["agents", "iprep.py"]),
        ("spoactl config --fail ", ["closed", "open"]),
        ("spoactl config --fail=o", ["open"]),
        ("spoactl config --output ", ["agents"]),
        ("spoactl config --engine ", []),
        ("spoactl ping --agent ", ["tcp:", "unix:"]),
        ("spoactl ping --agent unix:i", ["iprep.py"]),
        ("spoactl ping --agent=unix:i", ["iprep.py"]),
        ("spoactl send ", ["check-ip", "check-token"]),
        ("spoactl send --repeat 2 check-t", ["check-token"]),
        ("spoactl send check-ip ", []),
        ("spoactl send check-ip --js", ["--json"]),
        ("spoactl status --watch --js", ["--json"]),
        ("spoactl completion ", ["bash", "zsh"]),
        ("spoactl completion bash ", []),
        ("spoactl xyzzy --", []),
        ("/opt/bin/spoactl che", ["check"]),
        ("twistd -n sp", ["spoa"]),
        ("twistd -n spoa --han", ["--handler-timeout", "--handlers"]),
        ("twistd -n spoa --handlers ip", ["iprep.py"]),
        ("twistd -n spoa --pipelining=", ["always", "auto", "never"]),
        ("twist spoa --watch t", ["types"]),
        ("twist spoa --handlers iprep.py --listen u", ["unix:"]),
        ("twist spoa iprep", []),
    ],
)
def test_bash_proposes(line: str, expected: list[str], folder: Path) -> None:
    """Commands, options, and values by their kind: fixed words, files, modules, endpoints, messages."""
    assert replies(line, folder) == expected
    # A name in spoe.conf is not run by the shell.
    assert not (folder / "injected").exists()


def test_bash_with_other_word_breaks(folder: Path) -> None:
    """If bash does not split words at ":", it replaces the whole word."""
    command = [require_program("bash", "bash"), "-c", "COMP_WORDBREAKS=' ='\n" + CALL, "bash"]
    command += [str(FOLDER / "bash" / "spoactl"), "spoactl ping --agent unix:i", "spoactl"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("unix:iprep.py\n", "")


@pytest.mark.parametrize("name", ["spoactl", "twistd", "twist"])
def test_bash_completion_loads_the_file_of_a_program(name: str) -> None:
    """The file that has the name of the program sets the completion of all programs."""
    command = ["bash", "-uc", f'source "$1"; complete -p {name}', "bash", f"{FOLDER}/bash/{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"complete -F _spoactl {name}\n", "")


@pytest.fixture(params=["bash", "zsh", "zsh fpath"])
def terminal(request: pytest.FixtureRequest, folder: Path) -> Iterator[Terminal]:
    """A shell with the completion: the script is sourced, or zsh finds it in a folder."""
    shell = request.param.split()[0]
    program = require_program(shell, shell)
    compinit = "autoload -Uz compinit && compinit -u -D; unsetopt LIST_BEEP"
    source = f"source {FOLDER / shell / SCRIPTS[shell]}"
    setup = {
        "bash": source,
        "zsh": f"{compinit}; {source}",
        "zsh fpath": f"fpath=({FOLDER / 'zsh'} $fpath); {compinit}",
    }[request.param]
    options = ["--norc", "--noprofile", "-i"] if shell == "bash" else ["-f", "-i"]
    # zsh asks twistd for what comes before "spoa".
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Terminal([program, *options], cwd=folder, environment={"PATH": path, "PYTHONPATH": str(ROOT)}) as terminal:
        # The quotes: what is typed is shown too, and must not look like the prompt.
        terminal.type(f"{setup}; PS1='rea''dy> '\n")
        terminal.shows("ready> ")
        yield terminal


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("spoactl che\t", "spoactl check"),
        ("spoactl check --ignore event-tw\t", "--ignore event-twice "),
        ("spoactl check --ignore=event-tw\t", "--ignore=event-twice "),
        ("spoactl check ha\t", "spoactl check haproxy.cfg "),
        ("spoactl ping --agent u\tipr\t", "--agent unix:iprep.py "),
        ("spoactl send check-t\t", "send check-token "),
        ("spoactl completion z\t", "completion zsh "),
        ("twistd -n spoa --handlers ip\t", "--handlers iprep.py "),
        ("twistd -n spoa --handlers=ip\t", "--handlers=iprep.py "),
        ("twist spoa --log-format j\t", "--log-format json "),
        ("twistd sp\t", "twistd spoa "),
    ],
)
def test_the_tab_key(terminal: Terminal, keys: str, shown: str) -> None:
    """The shell completes the word on a terminal."""
    terminal.type(keys)
    terminal.shows(shown)


async def _print(shell: str) -> None:
    await run(None, parser().parse_args([shell]))


@pytest.mark.parametrize("shell", SCRIPTS)
def test_it_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script for the shell, and nothing else."""
    with pytest.raises(StopIteration):
        _print(shell).send(None)
    assert capsys.readouterr() == (script(shell), "")
    assert script(shell) == (FOLDER / shell / SCRIPTS[shell]).read_text("utf-8")
