"""Asks an authentication service, over HTTP, whether a request may pass, and who the user is.

Run it with: twistd --reactor=asyncio -n spoa --handlers handlers.py
"""

import os
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import httpx

from spoa_twisted import Handlers, Variables

# The service that is asked. It sees the client's cookies and passwords.
URL = os.environ.get("AUTH_URL") or "http://127.0.0.1:8082/auth"
if urlsplit(URL).scheme not in ("http", "https") or not urlsplit(URL).hostname:
    raise ValueError(f"AUTH_URL must be http://HOST:PORT/PATH or https://HOST/PATH: {URL!r}")

# Seconds, each shorter than the timeout of the handler, which is for the whole check. HAProxy waits half a second more.
TIMEOUT = httpx.Timeout(1.5, connect=0.5, pool=1.0)

# More checks at a time wait for a connection, up to TIMEOUT. The agent closes idle connections early: most services
# close them after 2 to 75 seconds, and a request that crosses the end of its connection fails.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=1.0)

# Bytes. A connection is used again when the body of its answer has been read, but a long body is not worth it.
MAX_BODY = 16 * 1024

# Bytes: limit for the name of a user, and for the address of a login page.
MAX_USER = 255
MAX_LOCATION = 2048

handlers = Handlers(on_error={"txn.error": "handler"})
client: httpx.AsyncClient


@handlers.startup
async def open_client() -> None:
    global client
    client = httpx.AsyncClient(
        timeout=TIMEOUT,
        limits=LIMITS,
        # A redirect is an answer for the user's browser. The agent must not follow it.
        follow_redirects=False,
        # Not through a proxy of the environment, and not with a password of ~/.netrc.
        trust_env=False,
        # The client must keep no cookie: it would send the cookie of one user with the request of the next one.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


@handlers.shutdown
async def close_client() -> None:
    await client.aclose()


def header_value(value: str | None) -> bytes | None:
    """Return what HAProxy has got, byte for byte.

    :raises ValueError: for a value that could end its header, or that servers may read in different ways.
    """
    if value is None:
        return None
    data = value.strip(" \t").encode("utf-8", "surrogateescape")
    if any((byte < 32 and byte != 9) or byte == 127 for byte in data):
        raise ValueError("a control character in a header")
    return data


async def ask(headers: list[tuple[bytes, bytes]]) -> httpx.Response:
    """Return the answer of the service. Its body is not kept."""
    for attempt in (1, 2):
        try:
            async with client.stream("GET", URL, headers=headers) as response:
                size = 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > MAX_BODY:
                        break
                return response
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # The service may have closed a connection just when it was used again. A new one is tried once.
            if attempt == 2:
                raise
    raise AssertionError("not reached")


def one_header(response: httpx.Response, name: str, limit: int) -> str | None:
    """Return a header of the answer, or None if there is none.

    :raises ValueError: if it is there twice, too long, or has characters that do not belong into a header.
    """
    values = [value for key, value in response.headers.raw if key.lower() == name.encode()]
    if not values:
        return None
    text = values[0].decode("utf-8")
    if len(values) > 1 or not text or not text.isprintable() or len(text) > limit:
        raise ValueError(f"the service's header {name} is not right")
    return text


@handlers.message(
    "check-access",
    args={
        "method": "method",
        "url": "pathq",
        "host": "req.fhdr(host)",
        "ip": "src",
        "tls": "ssl_fc",
        "accept": "req.fhdr(accept)",
        "cookie": "req.fhdr(cookie)",
        "authorization": "req.fhdr(authorization)",
    },
    event="on-frontend-http-request",
    sets={"txn.allowed": bool, "txn.status": int, "txn.location": str | None, "req.user": str | None},
    timeout=2,
)
async def check_access(
    method: str,
    url: str,
    host: str | None,
    ip: IPv4Address | IPv6Address,
    tls: bool,
    accept: str | None,
    cookie: str | None,
    authorization: str | None,
) -> Variables:
    """Allow the request if the service answers 200. Refuse it for 401 and 403, and for a redirect to a login page.

    For every other answer, and without one, the handler fails, and HAProxy answers 503.
    """
    refused: Variables = {"txn.allowed": False, "txn.status": 403, "txn.location": None, "req.user": None}
    values = {
        "X-Forwarded-Method": method,
        "X-Forwarded-Proto": "https" if tls else "http",
        "X-Forwarded-Host": host,
        "X-Forwarded-Uri": url,
        "X-Forwarded-For": str(ip),
        "Accept": accept,
        "Cookie": cookie,
        "Authorization": authorization,
    }
    try:
        headers = [(name.encode(), header_value(value)) for name, value in values.items()]
    except ValueError:
        return {**refused, "txn.status": 400}
    try:
        response = await ask([(name, value) for name, value in headers if value is not None])
    except httpx.HTTPError as error:
        # The text alone: the log is not for the inside of httpx.
        raise RuntimeError(f"no answer from the service: {type(error).__name__} {error}") from None
    if response.status_code == 200:
        user = one_header(response, "x-user", MAX_USER)
        return {"txn.allowed": True, "txn.status": 200, "txn.location": None, "req.user": user}
    if response.status_code in (401, 403):
        return {**refused, "txn.status": response.status_code}
    if response.status_code == 302:
        location = one_header(response, "location", MAX_LOCATION)
        if location is None or not location.isascii() or not location.startswith(("/", "https://", "http://")):
            raise ValueError("the service redirects to no address")
        return {**refused, "txn.status": 302, "txn.location": location}
    raise ValueError(f"the service answers with the status {response.status_code}")
