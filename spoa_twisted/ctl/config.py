"""``spoactl config``: write HAProxy's configuration from what the handlers declare."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any, Final

from spoa_twisted.ctl.arguments import add_settings, exit_status, new_parser, positive, seconds
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.haproxy.answers import Answers, answers
from spoa_twisted.haproxy.writing.addresses import endpoint_of
from spoa_twisted.haproxy.writing.advice import advice, not_outlasted, on_failure, parts_of_headers
from spoa_twisted.haproxy.writing.haproxy_cfg import parts, whole
from spoa_twisted.haproxy.writing.plan import CannotWrite, Options, Plan, engine_name, plan
from spoa_twisted.haproxy.writing.required import Required
from spoa_twisted.haproxy.writing.spoe_conf import spoe_conf
from spoa_twisted.limits import Limits
from spoa_twisted.runner.loading import load_all

SUMMARY = "write HAProxy's configuration from what the handlers declare"

DEFAULT_SERVER: Final = "127.0.0.1:12345"

#: The files that --output writes. The lines of the second one belong into a haproxy.cfg.
SPOE_CONF: Final = "spoe.conf"
PARTS: Final = "haproxy.cfg.parts"
WHOLE: Final = "haproxy.cfg"

DESCRIPTION = """\
Writes spoe.conf, and the lines that haproxy.cfg needs for it. They come from the options of @handlers.message: args,
event or rule, and sets. The handlers are loaded as "twistd spoa" loads them, and not called.
"""

EPILOG = f"""\
The configuration is for HAProxy 2.6 and newer. It refuses requests while the agent fails, with the status 503; with
--fail open, the rules for that are comments. A handler that does not declare its arguments, or when HAProxy asks it, is
left out, and an example of what to add is printed on stderr. If a handler sets nothing when it fails, stderr says so.

Without --output, both texts are printed. With --output DIR, they are written to DIR/{SPOE_CONF} and DIR/{PARTS},
with --whole to DIR/{SPOE_CONF} and DIR/{WHOLE}. Without --force, no existing file is overwritten.

{exit_status("the configuration is written", "it is not")}
examples:
  spoactl config --handlers mymod --require txn.allowed
  spoactl config --handlers mymod --require txn.allowed --whole --output try
  haproxy -f try/haproxy.cfg
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("config", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--handlers",
        metavar="MODULE",
        action="append",
        required=True,
        help="package.module, path/to/file.py, or either with :attribute, as for twistd spoa; repeatable",
    )
    add_settings(parser)
    parser.add_argument(
        "--require",
        metavar="NAME[=STATUS]",
        action="append",
        type=_required,
        help="write the rule that refuses unless this variable is true, with the HTTP status 403 or this one;"
        " repeatable",
    )
    parser.add_argument("--whole", action="store_true", help="write a complete haproxy.cfg, for a first try")
    parser.add_argument("--output", metavar="DIR", type=Path, help="write files to this folder")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    engine = parser.add_argument_group("names and addresses")
    engine.add_argument(
        "--engine", metavar="NAME", help="the name of the SPOE engine (default: the name of the first module)"
    )
    engine.add_argument(
        "--prefix", metavar="NAME", help="the prefix of the agent's variables (default: the name of the engine)"
    )
    engine.add_argument(
        "--server",
        metavar="ADDRESS",
        action="append",
        help=f"the address of an agent, as in HAProxy's server lines; repeatable (default: {DEFAULT_SERVER})",
    )
    failures = parser.add_argument_group("failures and sizes")
    failures.add_argument(
        "--fail",
        choices=("closed", "open"),
        default="closed",
        help="whether requests are refused or pass while the agent fails (default: closed)",
    )
    failures.add_argument(
        "--processing",
        metavar="SECONDS",
        type=seconds,
        help="HAProxy's timeout processing (default: the longest timeout of a handler plus half a second, at least 2)",
    )
    failures.add_argument(
        "--body", metavar="BYTES", type=positive, help="write the tune.bufsize that bodies of up to this length need"
    )
    return parser


def _required(text: str) -> Required:
    try:
        return Required.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Print or write the configuration.

    :raises spoa_twisted.runner.errors.CannotStart: when the handlers cannot be loaded.
    :raises CannotWrite: (a ``ValueError``) when there is no configuration for them, or a file cannot be written.
    """
    seen = _seen(options)
    hints = [advice(seen), "" if options.fail == "open" else on_failure(seen)]
    try:
        made = plan(
            seen,
            Options(
                engine=engine_name(options.handlers[0]) if options.engine is None else options.engine,
                prefix=options.prefix,
                servers=options.server or [DEFAULT_SERVER],
                fail_open=options.fail == "open",
                processing=options.processing,
                body=options.body,
                required=options.require or (),
            ),
        )
        hints += [not_outlasted(made), parts_of_headers(made)]
    finally:
        # Also if nothing is written: the hints say what to add.
        for hint in filter(None, hints):
            print(f"spoactl: {hint}", file=sys.stderr)
    haproxy_cfg = whole(made, _agent_command(options, made)) if options.whole else parts(made)
    texts = {SPOE_CONF: spoe_conf(made), WHOLE if options.whole else PARTS: haproxy_cfg}
    if options.output is None:
        print("\n".join([f"# {name}\n{text}" for name, text in texts.items()]), end="")
    else:
        _write(options.output, texts, force=options.force)


def _seen(options: argparse.Namespace) -> Answers:
    """Load the handlers, and return them in the order of their registration."""
    handlers = load_all(options.handlers, options.settings)
    if not isinstance(handlers, Handlers):
        raise CannotWrite(
            f"{' '.join(options.handlers)} is {type(handlers).__name__}, which declares nothing: only Handlers of"
            " spoa_twisted do"
        )
    seen = answers(handlers, Limits().handler_timeout)
    return Answers({name: seen.by_message[name] for name in handlers}, seen.default)


def _agent_command(options: argparse.Namespace, made: Plan) -> str:
    """Return the command that starts an agent for this configuration."""
    words = ["twistd", "-n", "spoa"]
    for module in options.handlers:
        words += ["--handlers", module]
    if options.settings is not None:
        words += ["--settings", options.settings]
    endpoint = endpoint_of(made.servers[0])
    if endpoint is not None and made.servers[0] != DEFAULT_SERVER:
        words += ["--listen", endpoint]
    limits = Limits()
    if made.bufsize is not None and made.bufsize > limits.max_frame_size:
        words += ["--max-frame-size", str(made.bufsize)]
    if made.bufsize is not None and made.bufsize > limits.max_payload_size:
        words += ["--max-payload-size", str(made.bufsize)]
    return shlex.join(words)


def _write(folder: Path, texts: dict[str, str], *, force: bool) -> None:
    """Write all files, or none if one exists and ``force`` is not given."""
    existing = [str(folder / name) for name in texts if (folder / name).exists()]
    if existing and not force:
        raise CannotWrite(f"not written, because files exist: {', '.join(existing)}; use --force to overwrite them")
    if folder.exists() and not folder.is_dir():
        raise CannotWrite(f"{folder} is not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, "utf-8")
            print(folder / name)
    except OSError as error:
        raise CannotWrite(f"cannot write {error.filename}: {error.strerror}") from error
