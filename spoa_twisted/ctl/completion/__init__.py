"""``spoactl completion``: print what lets a shell complete the command lines of ``spoactl`` and ``twistd spoa``.

The scripts are files of this package, made from the parsers of the command lines by ``python -m tests.program_pages``.
So a Tab does not start Python, which would take half a second. ``setup.cfg`` also installs the files where shells look
for them.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from typing import Any, Final

from spoa_twisted.ctl.arguments import exit_status, new_parser

SUMMARY = "print the completion for bash or zsh"

#: The file for each shell, in the folder of its name. The other files load it, for the names of the other programs.
SCRIPTS: Final = {"bash": "spoactl", "zsh": "_spoactl"}

DESCRIPTION = """\
Prints a script for your shell. With it, the Tab key completes commands, options, and the values of options, of
spoactl, and of "twistd spoa" and "twist spoa".
"""

EPILOG = f"""\
To have it in each new shell, add one line to ~/.bashrc, or to ~/.zshrc below its line with compinit:
  source <(spoactl completion bash)
  source <(spoactl completion zsh)

For all users of a machine, write the script into a folder of the system. bash needs the package bash-completion for
that:
  spoactl completion bash > /etc/bash_completion.d/spoactl
  spoactl completion zsh > /usr/local/share/zsh/site-functions/_spoactl

"pip install" without -e also puts the scripts into share/bash-completion/completions and share/zsh/site-functions of
the environment, and the manual pages into share/man/man1. "man" finds them there when the folder bin of the environment
is in the PATH.

{exit_status("the script is printed", "it is not")}
examples:
  spoactl completion bash
  spoactl completion zsh > _spoactl
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("completion", DESCRIPTION, EPILOG)
    parser.add_argument("shell", metavar="SHELL", choices=SCRIPTS, help="the name of your shell: bash or zsh")
    return parser


def script(shell: str) -> str:
    """Return the script for ``shell``, a key of :data:`SCRIPTS`."""
    return (files(__name__) / shell / SCRIPTS[shell]).read_text("utf-8")


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Print the script."""
    print(script(options.shell), end="")
