"""Values of every type between HAProxy and handlers in both directions, and variables of every scope."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from spoa_twisted import NULL, Handlers, Int32, Int64, Message, UInt32, UInt64, Value, Variables

from .conftest import Serve, StartHAProxy
from .harness import bounded, shown

#: For each argument: HAProxy's sample expression, and the value that a handler gets.
SAMPLES: dict[str, tuple[str, Value]] = {
    "yes": ("bool(true)", True),
    "no": ("bool(false)", False),
    "small": ("int(42)", 42),
    "negative": ("int(-42)", -42),
    "smallest": ("int(-9223372036854775808)", -(2**63)),
    "largest": ("int(9223372036854775807)", 2**63 - 1),
    "v4": ("src", IPv4Address("127.0.0.1")),
    "v6": ("req.hdr_ip(v6)", IPv6Address("2001:db8::1")),
    "text": ("req.hdr(text)", "grüße"),
    "not_utf8": ("req.hdr(not-utf8)", "caf\udce9"),
    "empty": ("str()", ""),
    "body": ("req.body", b"\x00\xff body"),
    "missing": ("req.hdr(missing)", None),
    "method": ("method", "POST"),
}

#: For each variable: the value that a handler sets, and HAProxy's text for it, or None if the variable is not set.
SET: dict[str, tuple[Value, str | None]] = {
    "yes": (True, "1"),
    "no": (False, "0"),
    "minus_one": (-1, "-1"),
    "smallest": (-(2**63), "-9223372036854775808"),
    "largest": (2**63 - 1, "9223372036854775807"),
    "int32": (Int32(-5), "-5"),
    "uint32": (UInt32(2**32 - 1), "4294967295"),
    "int64": (Int64(-5), "-5"),
    # HAProxy's integers are signed.
    "uint64": (UInt64(2**64 - 1), "-1"),
    "v4": (IPv4Address("192.0.2.1"), "192.0.2.1"),
    "v6": (IPv6Address("2001:db8::1"), "2001:db8::1"),
    "text": ("grüße", "grüße"),
    "not_utf8": ("caf\udce9", "caf\udce9"),
    "empty": ("", ""),
    "bytes": (b"caf\xe9", "caf\udce9"),
    "null": (NULL, None),
    "none": (None, None),
}


@bounded
async def test_every_type_there_and_back(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """HAProxy's samples arrive with their types, also after a handler has set them as variables."""
    handlers = Handlers()
    received: list[Message] = []

    @handlers.message("there")
    def there(message: Message) -> Variables:
        received.append(message)
        return {f"txn.{name}": value for name, value in message}

    @handlers.message("back")
    def back(message: Message) -> None:
        received.append(message)

    arguments = " ".join(f"{name}={sample}" for name, (sample, _) in SAMPLES.items())
    arguments_back = " ".join(f"{name}=var(txn.spoa.{name})" for name in SAMPLES)
    haproxy = start_haproxy(
        serve(handlers),
        spoe=f"""\
    messages there
    groups back

spoe-message there
    args {arguments}
    event on-frontend-http-request

spoe-message back
    args {arguments_back}

spoe-group back
    messages back
""",
        web="    option http-buffer-request\n    http-request send-spoe-group test back\n"
        + shown("txn.spoa.negative", "txn.spoa.v6", "txn.spoa.text", "txn.spoa.method", "txn.spoa.missing"),
    )

    response = await haproxy.post("/", b"\x00\xff body", v6="2001:db8::1", text="grüße", **{"not-utf8": "caf\udce9"})

    values = [(name, type(value), value) for name, (_, value) in SAMPLES.items()]
    assert response.error is None
    assert [[(name, type(value), value) for name, value in message] for message in received] == [values] * 2
    assert response["txn.spoa.negative"] == "-42"
    assert response["txn.spoa.v6"] == "2001:db8::1"
    assert response["txn.spoa.text"] == "grüße"
    assert response["txn.spoa.method"] == "POST"
    assert response["txn.spoa.missing"] is None


@bounded
async def test_every_type_from_a_handler(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """HAProxy gets a handler's value of every type. NULL and None set no variable."""
    variables = {f"txn.{name}": value for name, (value, _) in SET.items()}
    haproxy = start_haproxy(
        serve(Handlers({"all": lambda: variables})),
        spoe="""\
    messages all

spoe-message all
    event on-frontend-http-request
""",
        web=shown(*[f"txn.spoa.{name}" for name in SET]),
    )

    response = await haproxy.get()

    assert response.error is None
    assert {name: response[f"txn.spoa.{name}"] for name in SET} == {name: text for name, (_, text) in SET.items()}


@bounded
async def test_unnamed_arguments(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """A handler gets an argument without a name by its position in the message."""
    received: list[Message] = []
    haproxy = start_haproxy(
        serve(Handlers({"mixed": lambda message: received.append(message)})),
        spoe="""\
    messages mixed

spoe-message mixed
    args frontend=fe_name src path
    event on-frontend-http-request
""",
        web="    http-request return status 200\n",
    )

    response = await haproxy.get("/here")

    assert response.error is None
    (message,) = received
    assert list(message) == [("frontend", "web"), ("", IPv4Address("127.0.0.1")), ("", "/here")]
    assert message["arg(2)"] == message[2] == "/here"


@bounded
async def test_scopes(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """A variable exists as long as its scope: process, session, transaction, request or response.

    A handler that sets a variable to None removes it earlier.
    """
    handlers = Handlers()

    @handlers.message("set")
    def set_(value: str) -> Variables:
        return {"proc.v": value, "sess.v": value, "txn.v": value, "req.v": value}

    @handlers.message("unset")
    def unset() -> Variables:
        return {"proc.v": None, "sess.v": None, "txn.v": None, "req.v": None}

    @handlers.message("set-res")
    def set_res() -> Variables:
        return {"res.v": "res", "res.unset": "res"}

    @handlers.message("unset-res")
    def unset_res() -> Variables:
        return {"res.unset": None}

    scopes = ["proc", "sess", "txn", "req", "res"]
    haproxy = start_haproxy(
        serve(handlers),
        spoe="""\
    messages set unset set-res unset-res
    register-var-names v

spoe-message set
    args value=req.hdr(value)
    event on-frontend-http-request if { req.hdr(value) -m found }

spoe-message unset
    event on-frontend-http-request if { path /unset }

spoe-message set-res
    event on-http-response if { res.hdr(from) origin }

spoe-message unset-res
    event on-http-response if { res.hdr(from) origin }
""",
        # Variables of scope req no longer exist in the response. So a request header carries the value to the web
        # server, which returns it.
        web="""\
    http-request set-header req %[var(req.spoa.v)] if { var(req.spoa.v) -m found }
    http-response set-header proc %[var(proc.spoa.v)] if { var(proc.spoa.v) -m found }
    http-response set-header sess %[var(sess.spoa.v)] if { var(sess.spoa.v) -m found }
    http-response set-header txn %[var(txn.spoa.v)] if { var(txn.spoa.v) -m found }
    http-response set-header res %[var(res.spoa.v)] if { var(res.spoa.v) -m found }
    http-response set-header res-unset %[var(res.spoa.unset)] if { var(res.spoa.unset) -m found }
    default_backend origin
""",
        origin="    http-request return status 200 hdr from origin hdr req %[req.hdr(req)]",
    )

    async with haproxy.client() as client:
        being_set = await client.get(value="first")
        same_session = await client.get()
        other_session = await haproxy.get()
        being_unset = await client.get("/unset", value="second")
        after = await client.get()

    responses = [being_set, same_session, other_session, being_unset, after]
    assert [response.error for response in responses] == [None] * 5
    assert [response["res-unset"] for response in responses] == [None] * 5
    assert [[response[scope] for scope in scopes] for response in responses] == [
        ["first", "first", "first", "first", "res"],
        ["first", "first", None, None, "res"],
        ["first", None, None, None, "res"],
        [None, None, None, None, "res"],
        [None, None, None, None, "res"],
    ]
