"""The text of ``--listen`` -> a server endpoint. Errors about it say what to write.

Twisted parses the text. Its errors name Python functions and types, so this module finds the reason again, for the
kinds of endpoints that are part of Twisted. For an endpoint of a plugin, the error has Twisted's own text.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from socket import gaierror
from typing import Final

from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorCore, IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from spoa_twisted.handlers.names import did_you_mean, nearest

#: The default endpoint. The port is the one in the example of SPOE.txt. The interface lets only programs on the same
#: machine connect: SPOP has no authentication.
DEFAULT_ENDPOINT: Final = "tcp:12345:interface=127.0.0.1"

# Examples for error texts, by the kind of endpoint.
_EXAMPLES: Final = {
    "tcp": DEFAULT_ENDPOINT,
    "tcp6": r"tcp6:12345:interface=\:\:1",
    "unix": "unix:/run/spoa/agent.sock:mode=660",
    "ssl": "ssl:12345:interface=127.0.0.1:privateKey=agent.key:certKey=agent.crt",
}
# The kinds that Twisted itself has for agents, with their options. The order is that of Twisted's parameters: a value
# without a name is the option at its position.
_OPTIONS: Final = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "ssl": (
        "port",
        "privateKey",
        "certKey",
        "sslmethod",
        "interface",
        "backlog",
        "extraCertChain",
        "dhParameters",
    ),
    "systemd": ("domain", "index", "name"),
}
# The options whose value is a whole number.
_NUMBERS: Final = ("backlog", "index")
# The options of ssl that name a file.
_FILES: Final = ("privateKey", "certKey", "extraCertChain", "dhParameters")
# Twisted's default of the option privateKey.
_DEFAULT_PRIVATE_KEY: Final = "server.pem"

_LARGEST_PORT: Final = 65535

# Twisted splits the text at each colon that has no backslash before it.
_COLON: Final = re.compile(r"(?<!\\):")
# An address as other programs write it: a port, a host and a port, or a URL.
_HOST_AND_PORT: Final = re.compile(
    r"(?:\w+:(?=/?/|[^:]*:))?(?://)?(?:(?P<host>\[.*\]|[^/]*):)?(?P<port>[0-9]{1,5})/?\Z"
)
# HAProxy and URLs write this before the path of a Unix socket.
_UNIX_PREFIX: Final = re.compile(r"unix(@|:(?=//)|://(?=/))")


def server_endpoint(reactor: IReactorCore, text: str) -> IStreamServerEndpoint:
    """Return the endpoint that ``text`` describes.

    :raises ValueError: for a text that does not describe an endpoint, or names a file that cannot be read.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    except Exception as error:
        # Twisted's parsers and those of plugins raise many types: ValueError, TypeError, FileNotFoundError.
        problem = _find_problem(text, error) or f"{type(error).__name__}: {error}"
        raise ValueError(f"bad endpoint {text!r}: {problem}") from error
    # Twisted notices these faults only when it listens.
    problem = _find_problem(text, None)
    if problem:
        raise ValueError(f"bad endpoint {text!r}: {problem}")
    return endpoint


def check_endpoint(reactor: IReactorCore, text: str) -> None:
    """Check ``text`` as :func:`server_endpoint` does, but do not ask for a socket that systemd passes at the start.

    :raises ValueError: as :func:`server_endpoint` does.
    """
    kind, _ = endpoint_options(text)
    if kind != "systemd" or "LISTEN_PID" in os.environ:
        server_endpoint(reactor, text)
        return
    # Any error other than that of a missing socket: then all options are checked.
    problem = _find_problem(text, ValueError())
    if problem:
        raise ValueError(f"bad endpoint {text!r}: {problem}")


def _find_problem(text: str, error: Exception | None) -> str:
    """Return the reason why ``text`` is not an endpoint, and what to write. It is empty if the reason is unknown.

    :param error: Twisted's error.
    """
    kind, options = endpoint_options(text)
    if kind not in _OPTIONS:
        # If there is no error, or another one, it is the kind of a plugin.
        return _describe_unknown(text, kind) if "Unknown endpoint type" in str(error) else ""
    if kind == "tcp" and "=" not in text and not options.get("port", "").isdecimal() and (meant := _guess(text)):
        # "tcp:127.0.0.1:12345" is right for a client. "tcp:12345:127.0.0.1:50" is right for a server.
        return f"write {meant}"
    for name, value in options.items():
        if name not in _OPTIONS[kind]:
            if name == value:
                return f"{name!r} is no option of {kind}; a value with colons, as in IPv6, needs \\: for each of them"
            similar = nearest(name, _OPTIONS[kind]) or _OPTIONS[kind]
            return f"{kind} has no option {name!r}{did_you_mean(similar)}"
        if error and name in _NUMBERS and not value.isdecimal():
            return f"{name}={value} is not a whole number"
    return _CHECKS[kind](kind, options, error)


def endpoint_options(text: str) -> tuple[str, Mapping[str, str]]:
    """Return the kind of the endpoint, in front of the first colon, and its options by name."""
    kind, *parts = _COLON.split(text)
    options: dict[str, str] = {}
    names = _OPTIONS.get(kind, ())
    for position, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if not equals:
            # Two colons of an IPv6 address leave an empty part between them.
            name, value = names[position] if position < len(names) and (part or not position) else part, part
        options[name] = value.replace("\\:", ":").replace("\\\\", "\\")
    return kind, options


def _describe_unknown(text: str, kind: str) -> str:
    meant = _guess(text)
    if meant:
        return f"write {meant}"
    plugins = [str(plugin.prefix) for plugin in getPlugins(IStreamServerEndpointStringParser)]
    if kind in plugins:
        # The error is about an endpoint within the endpoint.
        return ""
    similar = nearest(kind, [*_OPTIONS, *plugins])
    if similar and len(text) > len(kind):
        return f"write {similar[0]}{text[len(kind) :]}"
    return f"{kind!r} is not a kind of endpoint; write, for example, {DEFAULT_ENDPOINT}"


def _guess(text: str) -> str:
    """Return the endpoint for an address that is written as for other programs. It is empty for all other texts."""
    text = text.strip()
    path = _UNIX_PREFIX.sub("", text)
    if path != text or path.startswith(("/", "./", "../", "~")) or path.endswith(".sock"):
        return f"unix:{quoteStringArgument(os.path.expanduser(path))}"
    match = _HOST_AND_PORT.match(text)
    if match is None:
        return ""
    host, port = match["host"], match["port"]
    if host in ("", "*", "0.0.0.0"):  # noqa: S104 - the user asked for all interfaces
        return f"tcp:{port}"
    if host in (None, "localhost"):
        host = "127.0.0.1"
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        # The name of a host has a dot. Otherwise it may be the kind of an endpoint.
        return f"tcp:{port}:interface=ADDRESS, with an IP address of this machine" if "." in host else ""
    kind = "tcp6" if isinstance(address, IPv6Address) else "tcp"
    return f"{kind}:{port}:interface={quoteStringArgument(str(address))}"


def _check_tcp(kind: str, options: Mapping[str, str], error: Exception | None) -> str:
    port = options.get("port", "")
    if not port:
        return f"{kind} needs a port; write {_EXAMPLES[kind]}"
    if not port.isdecimal():
        return f"{port!r} is not a port; write {_EXAMPLES[kind]}"
    if int(port) > _LARGEST_PORT:
        return f"a port is a number up to {_LARGEST_PORT}, not {port}"
    return ""


def _check_unix(kind: str, options: Mapping[str, str], error: Exception | None) -> str:
    if not options.get("address"):
        return f"unix needs the path of the socket; write {_EXAMPLES['unix']}"
    if error and not re.fullmatch("[0-7]+", options.get("mode", "0")):
        return f"mode={options['mode']} is not an octal number such as 660"
    return ""


def _check_ssl(kind: str, options: Mapping[str, str], error: Exception | None) -> str:
    if isinstance(error, ImportError):
        return f'TLS needs the extra tls: pip install "spoa_twisted[tls]" ({error})'
    problem = _check_tcp(kind, options, error)
    if problem or error is None:
        return problem
    contents: list[bytes] = []
    for option in _FILES:
        path = Path(options.get(option, _DEFAULT_PRIVATE_KEY))
        if option in options or option == "privateKey":
            given = f"{option}={path}" if option in options else f"without the option privateKey, its default {path}"
            try:
                contents.append(path.read_bytes())
            except OSError as failure:
                return f"{given} cannot be read: {failure.strerror}"
    for content in (b"PRIVATE KEY-----", b"BEGIN CERTIFICATE-----"):
        # Twisted reads the files one after the other, so each may have both.
        if not any(content in data for data in contents):
            return f"the files have no line with {content.decode()}; privateKey and certKey must name PEM files"
    return ""


def _check_systemd(kind: str, options: Mapping[str, str], error: Exception | None) -> str:
    if options.get("domain") not in ("INET", "INET6", "UNIX"):
        return "systemd needs domain=INET, domain=INET6 or domain=UNIX"
    if ("index" in options) == ("name" in options):
        return "systemd needs either index=0, the number of the socket, or name=NAME"
    if isinstance(error, TypeError) and "name" in options:
        return "this version of Twisted knows no names of sockets; write index=0, the number of the socket"
    if isinstance(error, (IndexError, KeyError)):
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            return "systemd passed no socket to this process"
        which = f"index={options['index']}" if "index" in options else f"name={options['name']}"
        return f"systemd passed no socket with {which} to this process"
    return ""


_CHECKS: Final[Mapping[str, Callable[[str, Mapping[str, str], Exception | None], str]]] = {
    "tcp": _check_tcp,
    "tcp6": _check_tcp,
    "unix": _check_unix,
    "ssl": _check_ssl,
    "systemd": _check_systemd,
}


def cannot_listen(text: str, error: BaseException) -> str:
    """Return one line about an endpoint that cannot listen, from the error of its ``listen``.

    :param text: the endpoint.
    """
    return f"cannot listen on {text}: {describe_failure(error)}"


def describe_failure(error: BaseException) -> str:
    """Return the reason why an endpoint cannot listen, in one line, from the error of its ``listen``."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    if isinstance(cause, OSError):
        path = _unix_path(error)
        if path is not None:
            return _describe_unix_failure(path, cause) or str(error)
        if isinstance(error, CannotListenError):
            return _describe_tcp_failure(error, cause) or str(error)
    return str(error)


def _unix_path(error: BaseException) -> Path | None:
    """Return the path of the Unix socket that ``error`` is about."""
    if isinstance(error, CannotListenError):
        return Path(os.fsdecode(error.port)) if isinstance(error.port, bytes) else None
    # Twisted could not make the lock of the socket: a symlink, whose name is the second one of the error.
    lock = getattr(error, "filename2", None)
    return Path(os.fsdecode(lock).removesuffix(".lock")) if isinstance(lock, (str, bytes)) else None


def _describe_unix_failure(path: Path, error: OSError) -> str:
    folder = path.parent
    if error.errno == errno.ENOENT and not folder.exists():
        return f"the folder {folder} does not exist"
    if error.errno == errno.ENOTDIR:
        return f"{folder} is not a folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
        return f"this process may not create files in the folder {folder}"
    if error.errno == errno.EADDRINUSE:
        if path.is_dir():
            return f"{path} is a folder; write the path of a socket, such as {path}/agent.sock"
        if path.exists() and not path.is_socket():
            return f"{path} exists, and is not a socket; remove it, or write another path"
        return f"another process listens on {path}"
    if "too long" in str(error):
        return f"its path has {len(os.fsencode(path))} bytes, which is too long for a Unix socket"
    return ""


def _describe_tcp_failure(error: CannotListenError, cause: OSError) -> str:
    if cause.errno == errno.EADDRINUSE:
        return f"another process listens on port {error.port}"
    if cause.errno == errno.EACCES:
        return f"this process may not use port {error.port}: only root may use ports below 1024"
    if cause.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {error.interface}"
    if isinstance(cause, gaierror):
        return f"interface={error.interface} is not an IP address, and not the name of a host: {cause.strerror}"
    return ""
