"""docs/howto/tokens.rst: tokens in a list, and JSON Web Tokens that HAProxy checks alone."""

from __future__ import annotations

import time

import pytest

from tests.examples.example import require
from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port

from .pages import Page

PAGE = Page("howto/tokens")

pytestmark = pytest.mark.each_spoe


def with_rules(haproxy_cfg: str, rules: str) -> str:
    """Return the configuration with these rules in place of all others."""
    lines = haproxy_cfg.partition("\n# It stands for your application")[0].splitlines(keepends=True)
    kept = [line for line in lines if not line.lstrip(" #").startswith("http-request ")]
    begin = next(number for number, line in enumerate(kept) if line.startswith("    default_backend"))
    return "".join([*kept[:begin], *(f"    {rule}\n" for rule in rules.splitlines()), *kept[begin:]])


@PAGE.run(
    text="tokens.py",
    make="Tokens in a list 2",
    commands="Tokens in a list 3",
    rules="rules for tokens in a list",
)
def test_tokens_in_a_list(text: str, make: str, commands: str, rules: str, machine: Machine, branch: Branch) -> None:
    machine.write(tokens_py=text)
    token = machine.run(make).strip()
    config, start = commands.splitlines()
    machine.run(config)
    agent = machine.start(on_any_port(start))
    generated = (machine.folder / "haproxy.cfg").read_text()
    written = with_rules(generated, rules).replace("127.0.0.1:12345", f"127.0.0.1:{agent.port}")
    request = machine.haproxy(
        branch,
        haproxy_cfg=written.replace("timeout check 500ms", "timeout check 5s").replace("8081", machine.app()),
    )

    assert request(Authorization=f"Bearer {token}") == (200, "user: alice")
    assert request(Authorization=f"bearer {token}", **{"X-User": "admin"}) == (200, "user: alice")
    assert request(Authorization=f"Bearer {token}x")[0] == 401
    assert request(Authorization=f"Basic {token}")[0] == 401
    assert request(Authorization="Bearer \xff")[0] == 401
    assert request(**{"X-User": "alice"})[0] == 401
    assert token not in (machine.folder / "tokens.json").read_text()
    assert token not in agent.stop()
    assert request(Authorization=f"Bearer {token}")[0] == 503


@PAGE.run(rules="rules for jwt_verify")
def test_jwt_verify(rules: str, machine: Machine, branch: Branch) -> None:
    """HAProxy alone checks a token: its signature, the issuer, the audience, and the end."""
    require("jwt", "cryptography")
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (machine.folder / "issuer.pem").write_bytes(pem)
    head = "global\n    default-path config\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n"
    head += "    timeout server 30s\nfrontend www\n    bind 127.0.0.1:8080\n"
    tail = f"    default_backend app\nbackend app\n    server app1 127.0.0.1:{machine.app()}\n"
    request = machine.haproxy(branch, haproxy_cfg=head + "".join(f"    {rule}\n" for rule in rules.splitlines()) + tail)

    def answer(signing: rsa.RSAPrivateKey = key, algorithm: str = "RS256", **changed: object) -> tuple[int, str]:
        now = int(time.time())
        claims = {"iss": "https://login.example.org/", "aud": "shop", "sub": "alice", "exp": now + 600, **changed}
        claims = {name: value for name, value in claims.items() if value is not None}
        return request(Authorization=f"Bearer {jwt.encode(claims, signing, algorithm)}", **{"X-User": "admin"})

    assert answer() == (200, "user: alice")
    assert answer(other)[0] == 401
    assert answer(algorithm="RS512")[0] == 401
    assert answer(iss="https://evil.example/")[0] == 401
    assert answer(aud="mail")[0] == 401
    assert answer(exp=1)[0] == 401
    assert answer(iss=None)[0] == 401
    assert answer(aud=None)[0] == 401
    assert answer(exp=None)[0] == 401
    # The page says so: a list of audiences needs an agent.
    assert answer(aud=["shop", "mail"])[0] == 401
    assert request()[0] == 401
    assert request(Authorization="Bearer garbage")[0] == 401
    unsigned = jwt.encode({"iss": "https://login.example.org/", "aud": "shop", "exp": 2**33}, "", "none")
    assert request(Authorization=f"Bearer {unsigned}")[0] == 401


def test_each_block_is_run() -> None:
    assert PAGE.run_by_tests["howto/tokens"] == set(PAGE.blocks)
