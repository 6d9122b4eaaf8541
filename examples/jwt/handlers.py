"""Checks the JSON Web Token in the header "Authorization: Bearer" with the public keys of the issuer.

Run it with: twistd -n spoa --handlers handlers.py
"""

import ipaddress
import json
import os
import time
from typing import Any, NoReturn
from urllib.parse import urlsplit

import jwt
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone

from spoa_twisted import Handlers, Variables

# What a key must be for each algorithm: "kty" and "crv" of the key. There is no HS256: its secret is not public. If a
# public key could be a secret, everybody who has it could make tokens.
KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}


def setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


def seconds(name: str, default: str) -> int:
    value = setting(name, default)
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"{name} must be whole seconds: {value!r}")
    return int(value)


def on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# The address of the issuer's keys. Who could change the answer could make tokens: so it is https, but on this machine.
URL = setting("JWKS_URL", "http://127.0.0.1:8000/jwks.json")
HOST = urlsplit(URL).hostname
if not HOST or not (URL.startswith("https://") or (URL.startswith("http://") and on_this_machine(HOST))):
    raise ValueError(f"JWKS_URL must be https://HOST/PATH; http:// is only for this machine: {URL!r}")

# The claims "iss" and "aud" that a token must have.
ISSUER = setting("JWT_ISSUER", "https://login.example.org/")
AUDIENCE = setting("JWT_AUDIENCE", "shop")

# The algorithms that are accepted. A token does not choose another one.
ALGORITHMS = setting("JWT_ALGORITHMS", "RS256 ES256").split()
if not ALGORITHMS or not set(ALGORITHMS) <= KEY_TYPES.keys():
    raise ValueError(f"JWT_ALGORITHMS must be some of {' '.join(KEY_TYPES)}: {' '.join(ALGORITHMS)!r}")

# The clocks of the issuer and of this machine may differ by so many seconds.
LEEWAY = seconds("JWT_LEEWAY", "30")

# Keys are fetched anew when they are so old.
REFRESH = seconds("JWKS_REFRESH", "300")

# While the issuer does not answer, its last keys are used until they are so old. After that, nothing passes.
MAX_AGE = seconds("JWKS_MAX_AGE", "3600")

# A token with an unknown key id fetches the keys too, but not more often than this. Otherwise everybody could make the
# agent flood the issuer.
UNKNOWN_INTERVAL = seconds("JWKS_UNKNOWN_INTERVAL", "30")

# Seconds between two attempts while the issuer does not answer.
RETRY = 5

# Seconds for a fetch. It is less than the timeout of the handler, which may wait for a fetch.
FETCH_TIMEOUT = 1.5

# Bytes: limits for a set of keys, for a token, and for the name of a user.
MAX_KEYS_SIZE = 256 * 1024
MAX_TOKEN_SIZE = 8192
MAX_USER_SIZE = 255

# Bits. Shorter RSA keys are left out.
MIN_RSA_SIZE = 2048

# The text in txn.reason. The order matters: the first class that fits counts.
REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not yet valid",
    jwt.InvalidIssuerError: "wrong issuer",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.MissingRequiredClaimError: "claim is missing",
    jwt.InvalidSignatureError: "wrong signature",
}

handlers = Handlers(on_error={"txn.error": "handler"})
log = Logger("jwt")


class Refused(Exception):
    """The token is not accepted. The text is the reason, without anything that the client has written."""


class Body(Protocol):
    """Collects the body of a response. ``done`` fires with it, or fails if it is too long or incomplete."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._close())
        self._data = b""

    def _close(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_KEYS_SIZE and not self.done.called:
            self.done.errback(ValueError(f"the answer is longer than {MAX_KEYS_SIZE} bytes"))
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self.done.callback(self._data)
        else:
            self.done.errback(ValueError("the answer is cut off"))


def too_slow(result: object, timeout: float) -> NoReturn:
    raise ValueError(f"the answer takes longer than {timeout} seconds")


def why(error: Exception) -> str:
    """Return the text of an error. Twisted's client has some of them inside another one."""
    for reason in getattr(error, "reasons", []):
        error = reason.value
    return str(error) or type(error).__name__


def read_keys(body: bytes) -> dict[tuple[str, str], jwt.PyJWK]:
    """Return the keys of a JSON Web Key Set, by key id and algorithm. Keys for other purposes are left out.

    :raises ValueError: if there is no key that can be used.
    """
    try:
        listed = json.loads(body)["keys"]
        found = [key for key in listed if isinstance(key.get("kid"), str) and key.get("use", "sig") == "sig"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("the answer is no JSON Web Key Set") from None
    keys: dict[tuple[str, str], jwt.PyJWK] = {}
    for algorithm in ALGORITHMS:
        for key in found:
            # A key that names its algorithm is for no other one.
            if (key.get("kty"), key.get("crv")) != KEY_TYPES[algorithm] or key.get("alg", algorithm) != algorithm:
                continue
            try:
                usable = jwt.PyJWK(key, algorithm)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError) as error:
                log.warn("a key of the issuer cannot be used: {error}", error=type(error).__name__)
                continue
            if KEY_TYPES[algorithm][0] == "RSA" and usable.key.key_size < MIN_RSA_SIZE:
                log.warn("a key of the issuer is left out: RSA with {size} bits", size=usable.key.key_size)
                continue
            keys[key["kid"], algorithm] = usable
    if not keys:
        raise ValueError(f"the answer has no key for {' '.join(ALGORITHMS)} with a key id")
    return keys


class Keys:
    """The keys of the issuer, and when they were fetched. Times are those of ``time.monotonic()``."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        # One fetch at a time. Handlers that need the same key wait for it.
        self._lock = DeferredLock()
        # Each fetch has a connection of its own, and closes it. treq adds gzip. It follows no redirect here.
        self._client = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK:
        """Return a key. If there is none, fetch the keys once more, unless the last attempt was just now.

        :raises Refused: if the issuer has no such key.
        :raises RuntimeError: if there are no keys, or they are too old.
        """
        self._check_age()
        if (key_id, algorithm) not in self._keys:
            await self._lock.run(lambda: Deferred.fromCoroutine(self._fetch(UNKNOWN_INTERVAL)))
            self._check_age()
        try:
            return self._keys[key_id, algorithm]
        except KeyError:
            raise Refused("unknown key") from None

    async def refresh(self) -> None:
        """Fetch the keys if they are old."""
        if time.monotonic() - self._fetched >= REFRESH:
            await self._lock.run(lambda: Deferred.fromCoroutine(self._fetch(0)))

    def _check_age(self) -> None:
        if time.monotonic() - self._fetched > MAX_AGE:
            raise RuntimeError(f"no keys from {URL} in the last {MAX_AGE} seconds: all tokens are refused")

    async def _fetch(self, interval: float) -> None:
        if time.monotonic() - self._tried < interval:
            return
        started = self._tried = time.monotonic()
        try:
            # The timeout is for the whole answer: treq's own is for its beginning.
            body = await Deferred.fromCoroutine(self._get()).addTimeout(FETCH_TIMEOUT, reactor, too_slow)
            self._keys = read_keys(body)
        except CancelledError:
            # The handler that fetched has no more time. Its timeout is logged.
            raise
        except Exception as error:
            log.warn("no keys from {url}: {error}", url=URL, error=why(error))
        else:
            self._fetched = started

    async def _get(self) -> bytes:
        response = await self._client.get(URL, allow_redirects=False, unbuffered=True)
        body = Body()
        response.deliverBody(body)
        if response.code != 200:
            body.done.addErrback(lambda _: None)
            body.done.cancel()
            raise ValueError(f"the answer has status {response.code}")
        return await body.done


keys = Keys()


@handlers.startup
@handlers.every(RETRY)
async def refresh_keys() -> None:
    """Without keys the agent starts all the same: it answers 503, and tries again every five seconds."""
    await keys.refresh()


async def user_of(authorization: str | None) -> str:
    """Return the user in the token, when all is right with it.

    :raises Refused: if the token is not accepted, or there is none.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refused("no token")
    token = token.strip(" ")
    if len(token) > MAX_TOKEN_SIZE:
        raise Refused("too long")
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Refused("malformed") from None
    key_id, algorithm = header.get("kid"), header.get("alg")
    if algorithm not in ALGORITHMS:
        raise Refused("algorithm not accepted")
    # "crit" demands extensions, and this handler knows none.
    if not isinstance(key_id, str) or "crit" in header:
        raise Refused("malformed")
    # The key id is looked up in a dictionary, and used for nothing else.
    key = await keys.find(key_id, algorithm)
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=ISSUER,
            audience=AUDIENCE,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, ValueError, ArithmeticError, RecursionError) as error:
        raise Refused(next((text for kind, text in REASONS.items() if isinstance(error, kind)), "malformed")) from None
    user = claims["sub"]
    # It becomes a header. A line break in it would be another header, and spaces around it would get lost.
    if not (isinstance(user, str) and user.isprintable() and user == user.strip() and 0 < len(user) <= MAX_USER_SIZE):
        raise Refused("sub is no text for a header")
    return user


@handlers.message(
    "check-token",
    args={"authorization": "req.fhdr(authorization)"},
    event="on-frontend-http-request",
    sets={"txn.valid": bool, "req.user": str | None, "txn.reason": str | None},
    timeout=2,
)
async def check_token(authorization: str | None) -> Variables:
    """Allow the request if its token is right. What was wrong goes into a variable, and the token into no log."""
    try:
        user = await user_of(authorization)
    except Refused as refused:
        return {"txn.valid": False, "req.user": None, "txn.reason": str(refused)}
    return {"txn.valid": True, "req.user": user, "txn.reason": None}
