"""Scans the bodies of requests with YARA rules.

Run it with: twistd -n spoa --handlers handlers.py
"""

import os
from pathlib import Path

import yara
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables

# The folder of the rules. All its files *.yar are used.
RULES = Path(os.environ.get("RULES") or Path(__file__).with_name("rules"))

# How many bodies may be scanned at the same time. YARA lets other threads run while it scans, so more threads use more
# cores.
THREADS = os.environ.get("THREADS") or "4"
if not (THREADS.isascii() and THREADS.isdigit() and 1 <= int(THREADS) <= 256):
    raise ValueError(f"THREADS must be a number from 1 to 256: {THREADS!r}")

# YARA stops a scan after this many whole seconds. This is less than the handler's timeout. Python cannot stop a thread:
# without this limit, a long scan would occupy its thread even after the handler has timed out.
SCAN_SECONDS = 3

# The agent sets txn.error when the handler fails. The rules in haproxy.cfg then answer 503.
handlers = Handlers(on_error={"txn.error": "handler"}, blocking_threads=int(THREADS))
log = Logger("upload_scan")

# The text of each file of rules by its path, and the rules compiled from these files.
texts: dict[str, str] = {}
rules: yara.Rules


# When it fails at the start, the agent does not start. When it fails later, the old rules stay, and the log says why.
# It runs in a thread because compiling many rules takes seconds.
@handlers.startup(blocking=True)
@handlers.every(30, blocking=True)
def read_rules() -> None:
    """Compile the rules if a file has changed."""
    global texts, rules
    found = {str(path): path.read_text("utf-8") for path in sorted(RULES.glob("*.yar"))}
    if not found:
        raise ValueError(f"no file *.yar in {RULES}: without rules, every body would pass")
    if found != texts:
        # Each file is a namespace, so two files may have rules of the same name. An "include" is an error, because a
        # change of the included file would not be noticed.
        rules = yara.compile(filepaths={path: path for path in found}, includes=False)
        texts = found
        log.info("{rules} rules from {files} files in {folder}", rules=len(list(rules)), files=len(found), folder=RULES)


@handlers.message(
    "scan-body",
    args={"body": "req.body", "size": "req.body_size"},
    event="on-frontend-http-request",
    sets={"txn.whole": bool, "txn.clean": bool, "txn.rule": str | None},
    blocking=True,
    timeout=5,
)
def scan_body(body: bytes, size: int) -> Variables:
    """Allow the body if it is whole and no rule matches. The variable ``rule`` is for HAProxy's log."""
    if len(body) != size:
        # HAProxy has sent the beginning only. What follows may be the harmful part.
        return {"txn.whole": False, "txn.clean": False, "txn.rule": None}
    # A scan that takes too long raises yara.TimeoutError, and the request is answered with 503. With fast=True, YARA
    # stops to search for a string once it has found it.
    matches = rules.match(data=body, timeout=SCAN_SECONDS, fast=True)
    if not matches:
        return {"txn.whole": True, "txn.clean": True, "txn.rule": None}
    name = str(matches[0].rule)
    log.info("rule {name} matches a body of {size} bytes", name=name, size=size)
    return {"txn.whole": True, "txn.clean": False, "txn.rule": name}
