"""Checks the name and the password of HTTP's Basic authentication against an LDAP server.

Run it with: twistd -n spoa --handlers handlers.py
"""

import base64
import hashlib
import ipaddress
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ldaptor.ldapfilter import InvalidLDAPFilter, parseFilter
from ldaptor.protocols import pureldap
from ldaptor.protocols.ldap import ldaperrors
from ldaptor.protocols.ldap.ldapclient import LDAPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables


def setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


def on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# The server: ldap://HOST:PORT, or ldaps://HOST:PORT.
URL = urlsplit(setting("LDAP_URL", "ldap://127.0.0.1:389"))
HOST = URL.hostname or ""
if URL.scheme not in ("ldap", "ldaps") or not HOST or URL.path not in ("", "/"):
    raise ValueError(f"LDAP_URL must be ldap://HOST:PORT or ldaps://HOST:PORT: {URL.geturl()!r}")
try:
    PORT = URL.port or (636 if URL.scheme == "ldaps" else 389)
except ValueError as error:
    raise ValueError(f"LDAP_URL: {error}") from None

# Passwords leave this machine encrypted only, unless the setting says "no".
STARTTLS = setting("LDAP_STARTTLS", "no" if URL.scheme == "ldaps" or on_this_machine(HOST) else "yes")
if STARTTLS not in ("yes", "no") or (STARTTLS == "yes" and URL.scheme == "ldaps"):
    raise ValueError(f"LDAP_STARTTLS must be yes or no, and no for ldaps: {STARTTLS!r}")

# The DN of a user; {} stands for the name.
USER_DN = setting("LDAP_USER_DN", "uid={},ou=people,dc=example,dc=org")
if USER_DN.count("{}") != 1:
    raise ValueError(f"LDAP_USER_DN must have {{}} once, for the name: {USER_DN!r}")

# The user's own entry must match this filter. No text of a client ever gets into a filter.
try:
    FILTER = parseFilter(setting("LDAP_FILTER", "(objectClass=*)"))
except InvalidLDAPFilter as error:
    raise ValueError(f"LDAP_FILTER: {error}") from None

# The attribute of the entry that becomes req.user: LDAP takes ALICE for alice, but the application may not.
NAME = setting("LDAP_NAME", "uid")

# For so many seconds, a login that was right is right without asking the server again.
CACHE = setting("LDAP_CACHE", "30")
if not (CACHE.isascii() and CACHE.isdigit()):
    raise ValueError(f"LDAP_CACHE must be whole seconds: {CACHE!r}")
CACHE_SECONDS = int(CACHE)
MAX_CACHED = 10_000

# Each check has a connection. Further checks wait, so that a flood of logins does not become a flood of connections.
MAX_CONNECTIONS = 32

# The certificates that TLS trusts: the system's, or those in a PEM file.
TLS: Any = None
if URL.scheme == "ldaps" or STARTTLS == "yes":
    trusted = None
    if ca := os.environ.get("LDAP_CA"):
        found = re.findall("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", Path(ca).read_text(), re.DOTALL)
        if not found:
            raise ValueError(f"no certificate in LDAP_CA: {ca}")
        trusted = trustRootFromCertificates([Certificate.loadPEM(text) for text in found])
    # It also checks that the certificate is for HOST.
    TLS = optionsForClientTLS(HOST, trustRoot=trusted)

# The answers of a server that refuses this user. Every other error is a failure of the server or of a setting: 503.
REFUSED = (
    ldaperrors.LDAPInvalidCredentials.resultCode,
    ldaperrors.LDAPNoSuchObject.resultCode,
    ldaperrors.LDAPInvalidDNSyntax.resultCode,
    # The user has no password.
    ldaperrors.LDAPInappropriateAuthentication.resultCode,
    # Some servers say so of a locked user.
    ldaperrors.LDAPUnwillingToPerform.resultCode,
)

handlers = Handlers(on_error={"txn.error": "handler"})
log = Logger("ldap")
places = DeferredSemaphore(MAX_CONNECTIONS)
clients = Factory.forProtocol(LDAPClient)
# No lines in the log for each connection.
clients.noisy = False


class Cache:
    """Logins that were right. It holds neither passwords nor what could be compared with another process's hashes."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        # The end of each entry's time, and the user. All have the same lifetime, so the oldest come first.
        self._users: dict[bytes, tuple[float, str]] = {}

    def _key(self, login: bytes) -> bytes:
        return hashlib.blake2b(login, key=self._salt, digest_size=32).digest()

    def find(self, login: bytes) -> str | None:
        end, user = self._users.get(self._key(login), (0.0, None))
        return user if end > time.monotonic() else None

    def add(self, login: bytes, user: str) -> None:
        now = time.monotonic()
        while self._users and (len(self._users) >= MAX_CACHED or next(iter(self._users.values()))[0] <= now):
            del self._users[next(iter(self._users))]
        if CACHE_SECONDS:
            # Not in its old place, if it was there: the order is that of the ends.
            self._users.pop(self._key(login), None)
            self._users[self._key(login)] = (now + CACHE_SECONDS, user)


cache = Cache()


def login_of(authorization: str | None) -> tuple[str, bytes] | None:
    """Return the name and the password in an Authorization header, or None if there are none that may be tried."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        login = base64.b64decode(encoded.strip(" "), validate=True)
        name, colon, password = login.partition(b":")
        text = name.decode("utf-8")
    except ValueError:
        return None
    # RFC 4513: a bind with a name and an empty password is anonymous, and succeeds. It must never be tried. Nor control
    # characters: for a server that takes a NUL as the end, a password that begins with one is empty.
    if not name or not colon or not password or any(byte < 32 or byte == 127 for byte in login):
        return None
    return text, password


def user_dn(name: str) -> str:
    """Return the DN of a user. Whatever the name contains, it is one value in it: only letters and digits stay."""
    return USER_DN.replace(
        "{}", "".join(c if c.isascii() and c.isalnum() else "".join(f"\\{b:02x}" for b in c.encode()) for c in name)
    )


def succeeded(response: Any, expected: Any) -> bool:
    """Return whether an operation succeeded; False if the server refuses this user.

    :raises LDAPException: if the server fails, or answers something else.
    """
    if not isinstance(response, expected):
        raise ldaperrors.LDAPProtocolError(f"unexpected answer: {type(response).__name__}".encode())
    code = response.resultCode
    if code == ldaperrors.Success.resultCode:
        return True
    if code in REFUSED:
        return False
    raise ldaperrors.get(code, response.errorMessage)


async def own_names(client: LDAPClient, dn: str) -> list[str]:
    """Return the names in the entry of the user who is bound; none if the entry does not match the filter."""
    names: list[str] = []
    done: Deferred[Any] = Deferred()

    def on_response(response: Any) -> bool:
        if isinstance(response, pureldap.LDAPSearchResultEntry):
            names.extend(value.decode("utf-8") for _, values in response.attributes for value in values)
            return False
        if isinstance(response, pureldap.LDAPSearchResultReference):
            return False
        done.callback(response)
        return True

    search = pureldap.LDAPSearchRequest(
        baseObject=dn, scope=pureldap.LDAP_SCOPE_baseObject, filter=FILTER, attributes=[NAME]
    )
    client.send_multiResponse(search, on_response).addErrback(done.errback)
    return names if succeeded(await done, pureldap.LDAPSearchResultDone) else []


async def ask(name: str, password: bytes) -> str | None:
    """Return the user's name as the server writes it, or None if the server refuses.

    A bind changes who a connection is. So a connection is for one check: with a pool, an answer that comes late, or a
    bind that fails, could become the identity of the next user.
    """
    endpoint = HostnameEndpoint(reactor, HOST, PORT)
    client: Any = await (wrapClientTLS(TLS, endpoint) if URL.scheme == "ldaps" else endpoint).connect(clients)
    try:
        if STARTTLS == "yes":
            await client.startTLS(TLS)
            # Who is between could have sent a plain "success" behind the answer, for the bind that follows.
            if client.buffer:
                raise ldaperrors.LDAPProtocolError(b"plain bytes behind the answer to StartTLS")
        dn = user_dn(name)
        if not succeeded(await client.send(pureldap.LDAPBindRequest(dn=dn, auth=password)), pureldap.LDAPBindResponse):
            return None
        names = await own_names(client, dn)
        if not names:
            log.info("{dn} does not match LDAP_FILTER, or has no {name} that it may read", dn=dn, name=NAME)
            return None
        # LDAP has no order of values. So a user with two names has the same one each time.
        user = min(names)
        if not user.isprintable():
            raise ValueError(f"the name is no text for a header: {user!r}")
        return user
    finally:
        # Also when the handler's time is over. Not loseConnection: with TLS, that waits for the server.
        client.transport.abortConnection()


@handlers.message(
    "check-login",
    args={"authorization": "req.fhdr(authorization)"},
    event="on-frontend-http-request",
    sets={"txn.known": bool, "req.user": str | None},
    timeout=2,
)
async def check_login(authorization: str | None) -> Variables:
    """Allow the request if the server accepts the login."""
    login = login_of(authorization)
    if login is None:
        return {"txn.known": False, "req.user": None}
    name, password = login
    key = name.encode() + b":" + password
    user = cache.find(key)
    if user is None:
        await places.acquire()
        try:
            user = await ask(name, password)
        finally:
            places.release()
        if user is not None:
            cache.add(key, user)
    return {"txn.known": user is not None, "req.user": user}
