"""The text of an endpoint, and the reason why an endpoint cannot listen."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import twisted.internet
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from spoa_twisted import endpoints
from spoa_twisted.endpoints import DEFAULT_ENDPOINT, describe_failure, server_endpoint
from tests.certificates import self_signed


def problem_of(text: str) -> str:
    """Return the error text for ``text``, without its beginning."""
    with pytest.raises(ValueError, match=r"^bad endpoint ") as caught:
        server_endpoint(MemoryReactorClock(), text)
    beginning = f"bad endpoint {text!r}: "
    assert str(caught.value).startswith(beginning)
    return str(caught.value).removeprefix(beginning)


class TestServerEndpoint:
    @pytest.mark.parametrize(
        "text",
        [
            DEFAULT_ENDPOINT,
            "tcp:0",
            "TCP6:0",
            "tcp:port=1:backlog=5",
            r"tcp6:1:interface=\:\:1",
            "tcp:0:127.0.0.1:5",
            r"tcp6:0:5:\:\:1",
            "unix:/a:mode=660",
            "unix:/a:660:5",
            "unix:/a:mode=0o660:backlog=+5",
            r"unix:address=a\=b",
        ],
    )
    def test_good_ones(self, text: str) -> None:
        """Twisted parses them."""
        assert IStreamServerEndpoint.providedBy(server_endpoint(MemoryReactorClock(), text))

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("12345", "tcp:12345:interface=127.0.0.1"),
            ("127.0.0.1:12345", "tcp:12345:interface=127.0.0.1"),
            ("localhost:12345", "tcp:12345:interface=127.0.0.1"),
            ("192.0.2.1:1", "tcp:1:interface=192.0.2.1"),
            ("[::1]:12345", r"tcp6:12345:interface=\:\:1"),
            ("tcp:127.0.0.1:12345", "tcp:12345:interface=127.0.0.1"),
            ("tcp:[::1]:12345", r"tcp6:12345:interface=\:\:1"),
            ("tcp://127.0.0.1:12345", "tcp:12345:interface=127.0.0.1"),
            ("http://localhost:12345/", "tcp:12345:interface=127.0.0.1"),
            ("agent.example.com:12345", "tcp:12345:interface=ADDRESS, with an IP address of this machine"),
            (":12345", "tcp:12345"),
            ("*:12345", "tcp:12345"),
            ("0.0.0.0:12345", "tcp:12345"),
            ("/run/spoa.sock", "unix:/run/spoa.sock"),
            ("./a:b.sock", r"unix:./a\:b.sock"),
            ("agent.sock", "unix:agent.sock"),
            ("unix@/run/spoa.sock", "unix:/run/spoa.sock"),
            ("tpc:12345:interface=127.0.0.1", "tcp:12345:interface=127.0.0.1"),
            (" tcp:1", "tcp:1"),
            ("TCP:1", "tcp:1"),
        ],
    )
    def test_the_endpoint_that_was_meant(self, text: str, meant: str) -> None:
        """Other programs write addresses in other ways."""
        assert problem_of(text) == f"write {meant}"
        if "ADDRESS" not in meant:
            server_endpoint(MemoryReactorClock(), meant)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "'' is not a kind of endpoint; write, for example, tcp:12345:interface=127.0.0.1"),
            ("nonsense:1", "'nonsense' is not a kind of endpoint; write, for example, tcp:12345:interface=127.0.0.1"),
            ("tcp", "tcp needs a port; write tcp:12345:interface=127.0.0.1"),
            ("tcp:", "tcp needs a port; write tcp:12345:interface=127.0.0.1"),
            ("tcp:x", "'x' is not a port; write tcp:12345:interface=127.0.0.1"),
            ("tcp:65536", "a port is a number up to 65535, not 65536"),
            ("tcp:1:interfce=127.0.0.1", "tcp has no option 'interfce'; did you mean interface?"),
            ("tcp:1:x=1", "tcp has no option 'x'; did you mean port or interface or backlog?"),
            ("tcp:1:backlog=x", "backlog=x is not a whole number"),
            ("tcp6:1:interface=::1", r"'' is no option of tcp6; a value with colons, as in IPv6, needs \: for each of"),
            ("unix", "unix needs the path of the socket; write unix:/run/spoa/agent.sock:mode=660"),
            ("unix:", "unix needs the path of the socket; write unix:/run/spoa/agent.sock:mode=660"),
            ("unix:mode=660", "unix needs the path of the socket; write unix:/run/spoa/agent.sock:mode=660"),
            ("unix:/a:mode=888", "mode=888 is not an octal number such as 660"),
            ("systemd:index=0", "systemd needs domain=INET, domain=INET6 or domain=UNIX"),
            ("systemd:domain=INET", "systemd needs either index=0, the number of the socket, or name=NAME"),
            ("systemd:domain=INET:index=x", "index=x is not a whole number"),
            ("systemd:domain=INET:index=0", "systemd passed no socket to this process"),
        ],
    )
    def test_what_is_wrong(self, text: str, problem: str) -> None:
        """The error says what to write."""
        assert problem_of(text).startswith(problem)

    def test_systemd_passed_other_sockets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """systemd sets LISTEN_PID for the process that it passes sockets to."""
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        assert problem_of("systemd:domain=INET:index=3") == "systemd passed no socket with index=3 to this process"
        assert problem_of("systemd:domain=INET:name=a") in (
            "systemd passed no socket with name=a to this process",
            # The oldest Twisted.
            "this version of Twisted knows no names of sockets; write index=0, the number of the socket",
        )

    def test_systemd_passed_the_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then the endpoint is right."""
        endpoint = object()
        monkeypatch.setattr(endpoints, "serverFromString", lambda reactor, text: endpoint)
        assert server_endpoint(MemoryReactorClock(), "systemd:domain=INET:index=0") is endpoint

    def test_the_oldest_twisted_knows_no_names_of_sockets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It calls its parser with an argument that the parser does not have."""

        def fail(reactor: object, text: str) -> None:
            raise TypeError("_parseStreamServer() got an unexpected keyword argument 'name'")

        monkeypatch.setattr(endpoints, "serverFromString", fail)
        assert problem_of("systemd:domain=INET:name=a").startswith("this version of Twisted knows no names of sockets")

    def test_an_endpoint_of_a_plugin_has_twisteds_error(self) -> None:
        """The module does not know its options."""
        assert "Error: " in problem_of("haproxy:nonsense:1")


class TestTLS:
    def test_without_pyopenssl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the extra of this package that installs it."""
        for name in [name for name in sys.modules if name == "twisted.internet.ssl" or name.startswith("OpenSSL")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(twisted.internet, "ssl", raising=False)
        monkeypatch.setitem(sys.modules, "OpenSSL", None)
        text = problem_of("ssl:1:privateKey=agent.key:certKey=agent.crt")
        assert text.startswith('TLS needs the extra tls: pip install "spoa_twisted[tls]" (')

    def test_a_file_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the option, and the file."""
        certificate, key = self_signed(tmp_path)
        monkeypatch.chdir(tmp_path)
        missing = "cannot be read: No such file or directory"
        assert problem_of(f"ssl:1:privateKey=x.key:certKey={certificate}") == f"privateKey=x.key {missing}"
        assert problem_of(f"ssl:1:privateKey={key}:certKey=x.crt") == f"certKey=x.crt {missing}"
        assert problem_of("ssl:1") == f"without the option privateKey, its default server.pem {missing}"
        assert problem_of(f"ssl:1:privateKey={tmp_path}") == f"privateKey={tmp_path} cannot be read: Is a directory"
        assert problem_of(f"ssl:1:privateKey={certificate}").startswith(
            "the files have no line with PRIVATE KEY-----; p"
        )
        assert problem_of(f"ssl:1:privateKey={key}").startswith(
            "the files have no line with BEGIN CERTIFICATE-----; pri"
        )

    def test_options_without_their_names(self, tmp_path: Path) -> None:
        """They are in the order of Twisted's parameters."""
        certificate, key = self_signed(tmp_path)
        endpoint = server_endpoint(MemoryReactorClock(), f"ssl:1:{key}:{certificate}")
        assert IStreamServerEndpoint.providedBy(endpoint)
        assert problem_of(f"ssl:1:{key}:x.crt") == "certKey=x.crt cannot be read: No such file or directory"

    def test_a_file_with_other_contents(self, tmp_path: Path) -> None:
        """The error is that of the library that reads it."""
        certificate, key = self_signed(tmp_path)
        key.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
        assert "Error: " in problem_of(f"ssl:1:privateKey={key}:certKey={certificate}")

    def test_the_port(self, tmp_path: Path) -> None:
        """It is checked as for tcp."""
        certificate, key = self_signed(tmp_path)
        assert problem_of(f"ssl:65536:privateKey={key}:certKey={certificate}").startswith("a port is a number up to")
        assert problem_of("ssl:127.0.0.1:1").startswith(
            "'127.0.0.1' is not a port; write ssl:12345:interface=127.0.0.1:p"
        )


# Twisted does not close a socket that it could not bind, so the garbage collector warns about it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestDescribeFailure:
    @staticmethod
    def describe(text: str) -> str:
        """Return the reason why the endpoint ``text`` cannot listen."""
        from twisted.internet import reactor

        reasons: list[str] = []
        endpoint: Any = server_endpoint(reactor, text)
        endpoint.listen(Factory()).addErrback(lambda failure: reasons.append(describe_failure(failure.value)))
        (reason,) = reasons
        return reason

    def test_the_path_of_a_unix_socket(self, tmp_path: Path) -> None:
        """The folder is missing or a file, or a file is in the way."""
        (tmp_path / "file").write_text("precious")
        (tmp_path / "folder").mkdir()
        assert self.describe(f"unix:{tmp_path}/x/a") == f"the folder {tmp_path}/x does not exist"
        assert self.describe(f"unix:{tmp_path}/file/a") == f"{tmp_path}/file is not a folder"
        assert self.describe(f"unix:{tmp_path}/file").startswith(f"{tmp_path}/file exists, and is not a socket; remove")
        assert self.describe(f"unix:{tmp_path}/folder").startswith(
            f"{tmp_path}/folder is a folder; write the path of a"
        )
        assert (tmp_path / "file").read_text() == "precious"

    def test_a_path_that_is_too_long(self, tmp_path: Path) -> None:
        """The system has room for about 100 bytes."""
        path = f"{tmp_path}/{'x' * 120}"
        assert self.describe(f"unix:{path}") == f"its path has {len(path)} bytes, which is too long for a Unix socket"

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
    def test_a_folder_without_permission(self, tmp_path: Path, number: int) -> None:
        """The error is that of the lock, or of the socket if the lock exists."""
        reason = f"this process may not create files in the folder {tmp_path}"
        lock = os.fsencode(tmp_path / "a.lock")
        assert describe_failure(OSError(number, os.strerror(number), "123", None, lock)) == reason
        error = CannotListenError(None, os.fsencode(tmp_path / "a"), OSError(number, os.strerror(number)))
        assert describe_failure(error) == reason

    def test_a_socket_in_use(self, tmp_path: Path) -> None:
        """By a process that has no lock, so it is not an agent."""
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{tmp_path}/a")
            other.listen()
            error = CannotListenError(None, os.fsencode(tmp_path / "a"), OSError(errno.EADDRINUSE, "in use"))
            assert describe_failure(error) == f"another process listens on {tmp_path}/a"

    def test_a_tcp_port(self) -> None:
        """It is in use, it is reserved for root, or the interface is none of this machine."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            assert self.describe(f"tcp:{port}:interface=127.0.0.1") == f"another process listens on port {port}"
        # TEST-NET-1 of RFC 5737: no machine has these addresses.
        assert self.describe("tcp:0:interface=192.0.2.1") == "this machine has no address 192.0.2.1"
        reserved = CannotListenError("127.0.0.1", 80, PermissionError(errno.EACCES, "Permission denied"))
        assert describe_failure(reserved) == "this process may not use port 80: only root may use ports below 1024"
        unknown = CannotListenError("x.invalid", 80, socket.gaierror(-2, "Name or service not known"))
        assert "interface=x.invalid is not an IP address" in describe_failure(unknown)

    def test_other_errors_have_their_own_text(self) -> None:
        """For example those of a plugin, and of the lock that a process holds."""
        assert describe_failure(LookupError("unheard of")) == "unheard of"
        held = CannotListenError(None, b"/run/a", "process 7 holds its lock, /run/a.lock")
        assert "process 7 holds its lock, /run/a.lock" in describe_failure(held)
        assert "unheard of" in describe_failure(OSError(errno.EIO, "unheard of"))
        assert "unheard of" in describe_failure(CannotListenError(None, b"/run/a", OSError(errno.EIO, "unheard of")))
        assert "unheard of" in describe_failure(CannotListenError("", 1, OSError(errno.EIO, "unheard of")))
