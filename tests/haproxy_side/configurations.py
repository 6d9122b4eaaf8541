"""One good configuration, and how a test makes a variant of it.

bad = GOOD.replaced("args ip=src", "arg ip=src")
assert bad.found(spoe_conf) == ["spoe.conf:14: error: ... [unknown-keyword]"]
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks import find
from spoa_twisted.haproxy.finding import Finding
from spoa_twisted.haproxy.reading import read

SPOE = """\
[rep]
spoe-agent rep-agent
    messages lookup
    option var-prefix rep
    option set-on-error error
    option dontlog-normal
    timeout hello 2s
    timeout idle 2m
    timeout processing 2s
    use-backend rep-agents
    log global

spoe-message lookup
    args ip=src
    event on-frontend-http-request
"""

# The frontend has rules only, no server: HAProxy answers itself.
HAPROXY = """\
global
    default-path config
    log stderr format raw local0 info

defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s

frontend www
    bind 127.0.0.1:8080
    filter spoe engine rep config spoe.conf
    http-request deny deny_status 503 if { var(txn.rep.error) -m found }
    http-request deny unless { var(txn.rep.allowed) -m bool }
    http-request return status 200

backend rep-agents
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    option spop-check
    timeout server 3m
    server agent1 127.0.0.1:12345 check
"""

#: The last version with the first SPOE, and one with the second.
OLD, NEW = (2, 8), (3, 2)


@dataclass(frozen=True)
class Files:
    """The two files of a configuration."""

    spoe: str = SPOE
    #: ``None``: only spoe.conf is given to the checks.
    haproxy: str | None = HAPROXY

    def replaced(self, old: str, new: str) -> Files:
        """Replace ``old``, which must be there exactly once in both files together, by ``new``."""
        assert (self.spoe + (self.haproxy or "")).count(old) == 1, old
        return Files(self.spoe.replace(old, new), self.haproxy and self.haproxy.replace(old, new))

    def without(self, line: str) -> Files:
        """Remove a line, which is named without its indentation and must be there exactly once."""
        return self.replaced(f"    {line}\n", "")

    def after(self, line: str, *lines: str) -> Files:
        """Add lines behind a line. All are named without their indentation, which is four spaces."""
        return self.replaced(f"    {line}\n", "".join(f"    {text}\n" for text in (line, *lines)))

    def before(self, line: str, *lines: str) -> Files:
        """Add lines before a line. All are named without their indentation, which is four spaces."""
        return self.replaced(f"    {line}\n", "".join(f"    {text}\n" for text in (*lines, line)))

    def plus(self, *, spoe: str = "", haproxy: str = "") -> Files:
        """Add text at the ends of the files."""
        return Files(self.spoe + spoe, None if self.haproxy is None else self.haproxy + haproxy)

    def alone(self) -> Files:
        """Leave haproxy.cfg away."""
        return replace(self, haproxy=None)

    def write(self, folder: Path) -> list[Path]:
        """Write the files into ``folder``, and return their paths: spoe.conf, and haproxy.cfg if there is one."""
        texts = {"spoe.conf": self.spoe, "haproxy.cfg": self.haproxy}
        written = []
        for name, text in texts.items():
            if text is not None:
                (folder / name).write_text(text)
                written.append(folder / name)
        return written

    def findings(
        self,
        family: ModuleType,
        *,
        version: tuple[int, int] = NEW,
        answers: Answers | None = None,
        environment: Mapping[str, str] = {},
    ) -> list[Finding]:
        """Return what the checks of a family find. The names of the files are without a folder."""
        with tempfile.TemporaryDirectory() as name:
            spoe, *haproxy = self.write(Path(name))
            configuration = read([spoe], haproxy, version=version, environment=environment)
            findings = find(configuration, answers, family.CHECKS)
        return [
            replace(finding, place=finding.place._replace(file=Path(finding.place.file).name)) for finding in findings
        ]

    def found(
        self,
        family: ModuleType,
        *,
        version: tuple[int, int] = NEW,
        answers: Answers | None = None,
        environment: Mapping[str, str] = {},
    ) -> list[str]:
        """Return what the checks of a family find, as ``spoactl check`` prints it, in the order of the lines."""
        findings = self.findings(family, version=version, answers=answers, environment=environment)
        findings.sort(key=lambda finding: (finding.place.file, finding.place.line))
        return [f"{f.place.file}:{f.place.line}: {f.severity.value}: {f.text} [{f.id}]" for f in findings]


#: Works with all branches of HAProxy, fails closed, and no check finds anything in it.
GOOD = Files()
