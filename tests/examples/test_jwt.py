"""Tests of ``examples/jwt``: tokens and keys that the test makes, and an issuer that fails in all ways."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.haproxy.branches import Branch
from tests.programs import TWISTD
from tests.services.web import Answer, WebServer

from .conftest import OpenExample
from .example import Example, require

pytestmark = pytest.mark.each_spoe

# The imports below need them too.
require("jwt", "treq", "cryptography")

import jwt  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from jwt.algorithms import ECAlgorithm, RSAAlgorithm  # noqa: E402

ISSUER, AUDIENCE = "https://login.example.org/", "shop"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
SHORT_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())

PASSED = (200, "user: alice")


def jwk(key: Any, kid: str | None, **more: str) -> dict[str, Any]:
    """Return the public key of a private one as a JSON Web Key."""
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    listed = {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, **more}
    listed.pop("key_ops", None)
    return listed


def jwks(*keys: dict[str, Any]) -> Answer:
    return Answer(body=json.dumps({"keys": keys}).encode())


KEYS = jwks(jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec", use="sig", alg="ES256"))


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a token that is right; a value of None leaves one out."""
    now = int(time.time())
    all_claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 600, "iat": now, **changed}
    return {name: value for name, value in all_claims.items() if value is not None}


def token(key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa", **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers={"kid": kid} if kid is not None else None)


def part(data: bytes | dict[str, Any]) -> str:
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_public_key_as_secret() -> str:
    """Return a token that says HS256, signed with the public key of the issuer as the secret."""
    public = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{part(claims())}"
    return f"{text}.{part(hmac.digest(public, text.encode(), hashlib.sha256))}"


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def issuer() -> Iterator[WebServer]:
    """The server with the keys of the issuer."""
    with contextlib.ExitStack() as stack:
        server = WebServer(stack)
        server.answer = lambda _: KEYS
        yield server


@pytest.fixture
def example(open_example: OpenExample, issuer: WebServer) -> Example:
    example = open_example("jwt")
    example.environment["JWKS_URL"] = f"http://127.0.0.1:{issuer.port}/jwks.json"
    return example


def reason(example: Example, **headers: str) -> str:
    """Send a request that the agent refuses with 401, and return the header that says why."""
    connection = http.client.HTTPConnection(*example.website, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        assert response.status == 401, response.read()
        said = response.headers["WWW-Authenticate"]
        found = re.fullmatch(r'Bearer error="invalid_token", error_description="(.+)"', said)
        return found[1] if found else said


def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine jwt")
    example.check_problems()


def test_the_readme(example: Example, issuer: WebServer) -> None:
    """The sample token is one that the agent accepts without settings."""
    commands = example.commands()
    assert "twistd -n spoa --handlers handlers.py" in commands
    assert "spoactl config --handlers handlers.py --engine jwt --whole --output ." in commands
    assert "pip install -r requirements.txt" in commands
    sample = "python sample_token.py > token.txt"
    assert sample in commands
    example.run(sample.replace("python", sys.executable))
    issuer.answer = lambda _: Answer(body=(example.folder / "jwks.json").read_bytes())
    agent = example.agent()
    sent = example.run(
        f'spoactl send --agent tcp:127.0.0.1:{agent.port} check-token authorization="str:Bearer $(cat token.txt)"'
    )
    assert "txn.valid=bool:true\n" in sent
    assert "req.user=str:alice\n" in sent


def certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate for 127.0.0.1 into ``issuer.crt``; return what a server needs for it."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = dt.datetime.now(dt.timezone.utc)
    written = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(RSA_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(RSA_KEY, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "issuer.crt").write_bytes(written.public_bytes(pem))
    (folder / "issuer.key").write_bytes(RSA_KEY.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "issuer.crt", folder / "issuer.key")
    return context


def test_https(example: Example) -> None:
    """The agent takes keys only from a server whose certificate is trusted."""
    with contextlib.ExitStack() as stack:
        server = WebServer(stack, tls=certificate(example.folder))
        server.answer = lambda _: KEYS
        url = f"https://127.0.0.1:{server.port}/jwks.json"
        stranger = example.agent(JWKS_URL=url)
        stranger.program.said("no keys from https://.*certificate")
        assert server.requests == []
        # Both have the same file for the process id.
        stranger.stop()
        trusting = example.agent(JWKS_URL=url, SSL_CERT_FILE="issuer.crt")
        assert len(server.requests) == 1
        assert "no keys" not in trusting.program.output


def test_tokens(example: Example, branch: Branch) -> None:
    """Right tokens pass, others are refused with the reason. No token is in the agent's log."""
    agent = example.agent()
    request = example.site(branch, agent)

    right = token()
    assert request(**bearer(right)) == PASSED
    assert request(**bearer(token(EC_KEY, "ES256", "ec"))) == PASSED
    assert request(Authorization=f"bEaReR   {right}") == PASSED
    # The application gets the user of the token, never the client's own X-User.
    assert request(**bearer(right), **{"X-User": "admin"}, X_User="admin") == PASSED
    # Several audiences. Clocks may differ by 30 seconds.
    now = int(time.time())
    assert request(**bearer(token(aud=["mail", AUDIENCE]))) == PASSED
    assert request(**bearer(token(exp=now - 10))) == PASSED
    assert request(**bearer(token(nbf=now + 20, iat=now + 20))) == PASSED

    assert reason(example) == "Bearer"
    assert reason(example, Authorization="Basic YTpi") == "Bearer"
    head, body, signature = right.split(".")
    for wrong, text in {
        token(exp=now - 60): "expired",
        token(nbf=now + 120): "not yet valid",
        token(iss="https://evil.example/"): "wrong issuer",
        token(aud="mail"): "wrong audience",
        token(exp=None): "claim is missing",
        token(iss=None): "claim is missing",
        token(aud=None): "claim is missing",
        token(sub=None): "claim is missing",
        token(OTHER_KEY): "wrong signature",
        f"{head}.{part(claims(sub='admin'))}.{signature}": "wrong signature",
        f"{head}.{body}.": "wrong signature",
        f"{part({'alg': 'none', 'kid': 'rsa'})}.{body}.": "algorithm not accepted",
        with_public_key_as_secret(): "algorithm not accepted",
        token(RSA_KEY, "RS512"): "algorithm not accepted",
        # A key of another type than the algorithm needs.
        token(RSA_KEY, "RS256", "ec"): "unknown key",
        token(EC_KEY, "ES256", "rsa"): "unknown key",
        token(kid="../../../dev/null"): "unknown key",
        token(kid="' OR 1=1 --"): "unknown key",
        token(kid=None): "malformed",
        f"{part({'alg': 'RS256', 'kid': ['rsa']})}.{body}.{signature}": "malformed",
        f"{part({'alg': ['RS256'], 'kid': 'rsa'})}.{body}.{signature}": "algorithm not accepted",
        f"{part({'alg': 'RS256', 'kid': 'rsa', 'crit': ['x'], 'x': 1})}.{body}.{signature}": "malformed",
        f"{part(b'[' * 4000)}.{body}.{signature}": "malformed",
        f"{part(b'[]')}.{body}.{signature}": "malformed",
        "garbage": "malformed",
        "a.b.c": "malformed",
        "...": "malformed",
        "\xff.\xfe.\xfd": "malformed",
        "a" * 8193: "too long",
        # A header that another header could be hidden in, and names that look like others.
        token(sub="alice\r\nX-Admin: yes"): "sub is no text for a header",
        token(sub=" alice"): "sub is no text for a header",
        token(sub=""): "sub is no text for a header",
        token(sub="a" * 256): "sub is no text for a header",
    }.items():
        assert reason(example, **bearer(wrong)) == text, wrong
    # HAProxy has no room for such a header.
    assert request(**bearer("a" * 100_000))[0] in (400, 431)

    # All the unknown keys together had the keys fetched at most once: just now they had been fetched.
    output = agent.stop()
    assert "Traceback" not in output
    assert right not in output
    assert signature not in output


def test_two_headers(example: Example, branch: Branch) -> None:
    """The agent checks one Authorization header, so a request with two of them is refused."""
    example.site(branch, example.agent())

    connection = http.client.HTTPConnection(*example.website, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("GET", "/")
        for text in (token(OTHER_KEY), token()):
            connection.putheader("Authorization", f"Bearer {text}")
        connection.endheaders()
        assert connection.getresponse().status == 400


def test_only_the_setting_chooses_algorithms(example: Example, branch: Branch) -> None:
    example.site(branch, example.agent(JWT_ALGORITHMS="ES256"))
    assert reason(example, **bearer(token())) == "algorithm not accepted"


# PyJWT warns when a token is made with the short key.
@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits long")
def test_keys_for_other_purposes(example: Example, issuer: WebServer, branch: Branch) -> None:
    """A key for encryption, a short one, a secret and a broken one are left out. The others are used."""
    issuer.answer = lambda _: jwks(
        jwk(OTHER_KEY, "enc", use="enc"),
        jwk(OTHER_KEY, "rs512", alg="RS512"),
        jwk(SHORT_KEY, "short"),
        {"kty": "oct", "kid": "oct", "k": part(b"0" * 32)},
        {"kty": "RSA", "kid": "broken", "n": "!"},
        jwk(RSA_KEY, "rsa"),
    )
    agent = example.agent()
    request = example.site(branch, agent)
    assert request(**bearer(token())) == PASSED
    for kid in ("enc", "rs512", "oct", "broken"):
        assert reason(example, **bearer(token(OTHER_KEY, kid=kid))) == "unknown key"
    assert reason(example, **bearer(token(SHORT_KEY, kid="short"))) == "unknown key"
    output = agent.stop()
    assert "a key of the issuer is left out: RSA with 1024 bits" in output
    assert "a key of the issuer cannot be used" in output


def test_a_new_key(example: Example, issuer: WebServer, branch: Branch) -> None:
    """A token with an unknown key id has the keys fetched once more. A key that the issuer has removed is refused."""
    request = example.site(branch, example.agent(JWKS_UNKNOWN_INTERVAL="0"))
    assert request(**bearer(token())) == PASSED
    assert len(issuer.requests) == 1

    issuer.answer = lambda _: jwks(jwk(OTHER_KEY, "new"))
    assert request(**bearer(token(OTHER_KEY, kid="new"))) == PASSED
    assert len(issuer.requests) == 2
    assert reason(example, **bearer(token())) == "unknown key"
    assert len(issuer.requests) == 3


def test_unknown_keys_do_not_flood_the_issuer(example: Example, issuer: WebServer, branch: Branch) -> None:
    example.site(branch, example.agent(JWKS_UNKNOWN_INTERVAL="600"))
    for number in range(20):
        assert reason(example, **bearer(token(kid=f"unknown {number}"))) == "unknown key"
    assert len(issuer.requests) == 1


def test_the_issuer_is_down(example: Example, issuer: WebServer, branch: Branch) -> None:
    """Without keys the agent starts, and answers 503. When the issuer is back, tokens pass without a restart."""
    issuer.answer = lambda _: Answer(503)
    example.edit("handlers.py", "RETRY = 5", "RETRY = 0.1")
    agent = example.agent(JWKS_REFRESH="0", JWKS_MAX_AGE="3")
    request = example.site(branch, agent)
    agent.program.said("no keys from http://127.0.0.1:.*: the answer has status 503")
    assert request(**bearer(token()))[0] == 503
    assert request()[0] == 401

    issuer.answer = lambda _: KEYS
    issuer.wait_for(len(issuer.requests) + 2)
    assert request(**bearer(token())) == PASSED

    # It is down again. The old keys are used for a while, and then no longer: also the agent's own log says so.
    issuer.stop()
    deadline = time.monotonic() + 30
    while (answer := request(**bearer(token()))) == PASSED:
        assert time.monotonic() < deadline
    assert answer[0] == 503
    assert "Connection refused" in agent.program.output
    agent.program.said("no keys from .* in the last 3 seconds: all tokens are refused")


def test_wrong_answers_of_the_issuer(example: Example, issuer: WebServer) -> None:
    """The agent starts, and refuses all tokens. It says what is wrong, and goes on asking."""
    later = threading.Event()
    slow = "the answer takes longer than 0.5 seconds"
    no_key = "the answer has no key for RS256 ES256 with a key id"
    answers: list[tuple[Answer, str]] = [
        (Answer(until=later), slow),
        (KEYS._replace(until=later, late_body=True), slow),
        (Answer(body=b" " * 1_000_000 + KEYS.body), "the answer is longer than 262144 bytes"),
        (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), "the answer is cut off"),
        (Answer(raw=b"hello\r\n\r\n"), ".*wrong number of parts.*"),
        (Answer(302, headers={"Location": "file:///etc/passwd"}), "the answer has status 302"),
        (Answer(body=b"<html>"), "the answer is no JSON Web Key Set"),
        (Answer(body=b"[" * 200_000), "the answer is no JSON Web Key Set"),
        (Answer(body=b'{"keys": 5}'), "the answer is no JSON Web Key Set"),
        (jwks(), no_key),
        (jwks(jwk(RSA_KEY, None)), no_key),
    ]
    issuer.answer = lambda _: answers[0][0]
    example.edit("handlers.py", "RETRY = 5", "RETRY = 0.05")
    example.edit("handlers.py", "FETCH_TIMEOUT = 1.5", "FETCH_TIMEOUT = 0.5")
    agent = example.agent(JWKS_REFRESH="0")
    for answer, text in answers:
        issuer.answer = lambda _, answer=answer: answer  # type: ignore[misc]
        # The second line from now on is of a request that came after the change.
        line = re.compile(f"no keys from http://127.0.0.1:{issuer.port}/jwks.json: {text}\n")
        agent.program.said(line, len(line.findall(agent.program.output)) + 2)
    sent = example.run(
        f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-token authorization=str:'Bearer {token()}'"
    )
    assert sent == "txn.error=str:handler\n"

    # Nothing of all that is left over.
    later.set()
    issuer.answer = lambda _: KEYS
    issuer.wait_for(len(issuer.requests) + 2)
    sent = example.run(
        f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-token authorization=str:'Bearer {token()}'"
    )
    assert "txn.valid=bool:true\n" in sent
    agent.stop()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"JWKS_URL": "http://login.example.org/keys"}, "JWKS_URL must be https://HOST/PATH"),
        ({"JWT_ALGORITHMS": "HS256"}, "JWT_ALGORITHMS must be some of RS256"),
    ],
)
def test_wrong_settings(example: Example, settings: dict[str, str], text: str) -> None:
    """The agent does not start. One line says which setting is wrong."""
    ended = subprocess.run(
        [*TWISTD, "-n", "spoa", "--handlers", "handlers.py"],
        cwd=example.folder,
        env={**os.environ, **example.environment, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert text in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


def test_new_workers_fetch_keys(example: Example, issuer: WebServer) -> None:
    """A reload starts workers with keys of their own."""
    agent = example.agent("twistd -n spoa --handlers handlers.py --workers 1")
    issuer.answer = lambda _: jwks(jwk(OTHER_KEY, "new"))
    agent.program.signal(1)
    agent.program.said("reloaded: 1 worker was replaced")
    new = token(OTHER_KEY, kid="new")
    sent = example.run(f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-token authorization=str:'Bearer {new}'")
    assert "txn.valid=bool:true\n" in sent
    agent.stop()
