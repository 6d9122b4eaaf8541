"""Tests of ``examples/upload_scan``: YARA rules refuse bodies, and what cannot be scanned is refused."""

from __future__ import annotations

import base64
import gzip
import threading
from importlib import import_module

import pytest

from tests.haproxy.branches import Branch

from .conftest import OpenExample
from .example import Example, require

pytestmark = pytest.mark.each_spoe

#: Put together here: a scanner on this machine would move a file with the whole text away.
EICAR = "".join((r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!", "$H+H*")).encode()

#: What the rules of HAProxy's side say.
REFUSED = 403

#: Takes longer than any timeout, for bodies with the word "slow".
SLOW = 'rule slow { strings: $word = "slow" condition: $word and for all i in (1..1000000000000): (i > 0) }\n'

#: A form with one file, as browsers send it.
FORM = (
    b'--line\r\nContent-Disposition: form-data; name="file"; filename="picture.png"\r\n'
    b"Content-Type: image/png\r\n\r\n%b\r\n--line--\r\n"
)


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    require("yara")
    return open_example("upload_scan")


def broken(example: Example) -> None:
    (example.folder / "rules" / "broken.yar").write_text("rule broken { condition: tru }\n")


def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine scan", "--body 1048576")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    commands = example.commands()
    assert "twistd -n spoa --handlers handlers.py" in commands
    assert "spoactl config --handlers handlers.py --engine scan --body 1048576 --whole --output ." in commands
    assert "pip install -r requirements.txt" in commands


def test_a_body_passes_and_one_is_refused(example: Example, branch: Branch) -> None:
    """The rule's name is in the agent's log. HAProxy takes the lines of the README for its own log."""
    agent = example.agent()
    example.edit("haproxy.cfg", "log stderr format raw local0 notice", "log stderr format raw local0 info")
    example.edit("haproxy.cfg", "    filter spoe", "    log global\n    option httplog\n    filter spoe")
    request = example.site(branch, agent)

    assert request()[0] == 200
    assert request(method="GET", body=b"hello")[0] == 200
    assert request(method="POST", body=b"hello")[0] == 200
    assert request(method="POST", body=EICAR)[0] == REFUSED
    agent.program.said("rule eicar_test_file matches a body of 68 bytes")
    assert request(method="POST", body=b"<?php phpinfo(); ?>")[0] == REFUSED
    agent.program.said("rule php_code matches a body of 19 bytes")
    assert request(method="POST", body=FORM % EICAR)[0] == REFUSED
    assert request(method="POST", body=b"\x7fELF\x02\x01\x01\0")[0] == REFUSED


def test_the_whole_body_is_scanned(example: Example, branch: Branch) -> None:
    """The end of 1 MiB is scanned. One byte more than the buffer holds, and the request is refused."""
    request = example.site(branch, example.agent())

    length = 1048576
    assert request(method="POST", body=bytes(length))[0] == 200
    assert request(method="POST", body=bytes(length - len(EICAR)) + EICAR)[0] == REFUSED
    assert request(method="POST", body=bytes(length + 65536))[0] == 413
    assert request(method="POST", body=bytes(2 * length) + EICAR)[0] == 413


def test_bodies_that_would_not_be_scanned(example: Example, branch: Branch) -> None:
    request = example.site(branch, example.agent())

    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(EICAR), EICAR)
    assert request(method="POST", body=chunked, **{"Transfer-Encoding": "chunked"})[0] == 411
    assert request(method="POST", body=gzip.compress(EICAR), **{"Content-Encoding": "gzip"})[0] == 415
    assert request(method="POST", body=EICAR, **{"X-Long": "x" * 40000})[0] == 431


def test_what_is_not_seen(example: Example, branch: Branch) -> None:
    """The README says so: what is encoded or compressed inside of a body passes."""
    request = example.site(branch, example.agent())

    assert request(method="POST", body=base64.b64encode(EICAR))[0] == 200
    assert request(method="POST", body=FORM % gzip.compress(EICAR))[0] == 200


def test_a_scan_that_takes_too_long(example: Example, branch: Branch) -> None:
    """It is answered with 503, and its thread scans again."""
    (example.folder / "rules" / "slow.yar").write_text(SLOW)
    example.edit("handlers.py", "SCAN_SECONDS = 3", "SCAN_SECONDS = 1")
    agent = example.agent(THREADS="1")
    request = example.site(branch, agent)

    assert request(method="POST", body=b"slow")[0] == 503
    agent.program.said("TimeoutError: scanning timed out")
    assert request(method="POST", body=b"quick")[0] == 200
    assert request(method="POST", body=EICAR)[0] == REFUSED


def test_the_agent_is_down(example: Example, branch: Branch) -> None:
    """Without an agent nothing passes; when it is there again, it scans."""
    agent = example.agent()
    request = example.site(branch, agent)
    assert request()[0] == 200
    agent.program.kill()
    assert request()[0] == 503
    assert request(method="POST", body=EICAR)[0] == 503

    example.start(f"twistd --pidfile= -n spoa --handlers handlers.py --listen tcp:{agent.port}:interface=127.0.0.1")
    # HAProxy's next check finds the agent.
    while request()[0] == 503:
        pass
    assert request(method="POST", body=EICAR)[0] == REFUSED


def test_broken_rules_at_the_start(example: Example) -> None:
    broken(example)
    agent = "twistd -n spoa --handlers handlers.py --listen tcp:0:interface=127.0.0.1"
    output = example.run(f"{agent}; test $? -eq 1")
    assert 'rules/broken.yar(1): undefined identifier "tru"' in output
    assert "SPOA listening" not in output
    output = example.run(f"RULES=nowhere {agent}; test $? -eq 1")
    assert "no file *.yar in nowhere: without rules, every body would pass" in output
    output = example.run(f"THREADS=many {agent}; test $? -eq 1")
    assert "THREADS must be a number from 1 to 256: 'many'" in output
    assert "Traceback" not in output


def test_changed_rules(example: Example, branch: Branch) -> None:
    """Changed rules are used without a restart. While they are broken, the old ones stay."""
    example.edit("handlers.py", "every(30, ", "every(0.2, ")
    agent = example.agent()
    request = example.site(branch, agent)
    assert request(method="POST", body=b"new and harmful")[0] == 200

    broken(example)
    agent.program.said(r'rules/broken\.yar\(1\): undefined identifier "tru"')
    assert request(method="POST", body=b"new and harmful")[0] == 200
    assert request(method="POST", body=EICAR)[0] == REFUSED

    (example.folder / "rules" / "broken.yar").write_text('rule new { strings: $a = "new and harmful" condition: $a }')
    agent.program.said("4 rules from 3 files")
    assert request(method="POST", body=b"new and harmful")[0] == REFUSED


def test_a_reload_with_workers(example: Example) -> None:
    """``--workers`` and ``spoactl reload`` read the rules. While they are broken, the old workers stay."""
    status = f"unix:{example.folder}/status"
    agent = example.agent(f"twistd -n spoa --handlers handlers.py --workers 1 --status {status}")
    (example.folder / "body").write_bytes(b"new and harmful")
    send = f"spoactl send --agent tcp:127.0.0.1:{agent.port} scan-body body=@body size=15"

    broken(example)
    output = example.run(f"spoactl reload --status {status}; test $? -eq 1")
    assert 'rules/broken.yar(1): undefined identifier "tru"' in output
    assert "txn.clean=bool:true" in example.run(send)

    (example.folder / "rules" / "broken.yar").write_text('rule new { strings: $a = "new and harmful" condition: $a }')
    example.run(f"spoactl reload --status {status}")
    assert "txn.rule=str:new" in example.run(send)


def test_yara_lets_other_threads_run() -> None:
    """yara-python does not hold the lock of the interpreter while it scans."""
    require("yara")
    yara = import_module("yara")
    rules = yara.compile(source=SLOW)
    started, ended = threading.Event(), threading.Event()

    def scan() -> None:
        started.set()
        try:
            rules.match(data=b"slow", timeout=1)
        except yara.TimeoutError:
            ended.set()

    thread = threading.Thread(target=scan)
    thread.start()
    started.wait()
    turns = 0
    while thread.is_alive():
        thread.join(0.01)
        turns += 1
    assert ended.is_set()
    # With the lock held, this thread would have had a turn before the scan and one after it.
    assert turns > 5
