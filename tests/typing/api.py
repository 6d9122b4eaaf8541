"""Code that users may write, and code that mypy must refuse. mypy checks this module; nothing runs it.

Each ``type: ignore`` with a code is an assertion: mypy reports it as unused if the line has no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from spoa_twisted import (
    NULL,
    Declaration,
    Handlers,
    IHandlers,
    Int32,
    Message,
    PendingAnswer,
    SPOAFactory,
    SPOAService,
    SPOEClient,
    Value,
    Variables,
    answer_of,
)
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.testing import FakeHAProxy

handlers = Handlers(timeout=1, on_error={"txn.failed": True})


@handlers.message("plain")
def plain(ip: IPv4Address) -> dict[str, int]:
    return {"sess.score": int(ip)}


@handlers.message("nothing", timeout=0.5, blocking=True)
def nothing() -> None:
    return None


@handlers.message("values")
def values(message: Message) -> Variables:
    first: Value = message[0]
    return {"sess.a": first, "sess.b": NULL, "sess.c": Int32(1), "sess.d": None, "sess.e": b"", "sess.f": "x"}


@handlers.message("deferred", on_error={"txn.denied": True, "txn.reason": None})
def deferred(ip: IPv4Address) -> Deferred[Mapping[str, str]]:
    return succeed({"txn.ip": str(ip)})


@handlers.message("coroutine")
async def coroutine(token: str, message: Message) -> dict[str, str | None]:
    return {"req.user": await succeed(token), "sess.challenge": None}


@handlers.default
def default(message: Message) -> None:
    return None


@handlers.message("wrong")  # type: ignore[type-var]
def wrong() -> list[str]:
    return []


@handlers.message("also wrong")  # type: ignore[type-var]
async def also_wrong() -> dict[str, float]:
    return {"sess.a": 1.5}


@handlers.message("blocking", on_error={"sess.a": 1.5})  # type: ignore[dict-item]
def wrong_on_error() -> None:
    return None


@handlers.message(
    "declared",
    args={"ip": "src", "user-agent": "req.fhdr(user-agent)"},
    event="on-frontend-http-request",
    sets={"sess.score": int, "req.user": str | None, "txn.ip": IPv4Address | IPv6Address},
)
def declared(ip: IPv4Address, user_agent: str | None) -> None:
    return None


types: dict[str, type] = {"sess.a": bool}
handlers.message("declared-2", rule="http-request if { method POST }", sets=types)(nothing)
handlers.message("wrong-sets", sets={"sess.a": 5})  # type: ignore[dict-item]
handlers.message("wrong-sets", sets={"sess.a": "int"})  # type: ignore[dict-item]
handlers.message("wrong-args", args=["src"])  # type: ignore[arg-type]
handlers.message("wrong-args", args={"ip": 5})  # type: ignore[dict-item]
handlers.message("wrong-event", event=["on-client-session"])  # type: ignore[arg-type]
declaration: Declaration = handlers.declarations["declared"]


@handlers.startup
@handlers.every(30)
def read() -> int:
    return 1


@handlers.startup(timeout=5, blocking=True)
def load() -> None:
    return None


@handlers.shutdown
async def close() -> None:
    return None


@handlers.shutdown(blocking=True)
def flush() -> None:
    return None


@handlers.startup  # type: ignore[type-var]
def needs(pool: object) -> None:
    return None


@handlers.every("30")  # type: ignore[arg-type]
def soon() -> None:
    return None


number: int = read()
wrong_number: str = read()  # type: ignore[assignment]


# The decorator returns the function itself, with its type.
score: dict[str, int] = plain(IPv4Address("192.0.2.1"))
plain("192.0.2.1")  # type: ignore[arg-type]


@implementer(IHandlers)
class Others:
    """Implements IHandlers without the class Handlers."""

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        return answer_of(succeed(b""))

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        return b""


class NoHandlers:
    """Does not implement IHandlers."""


SPOAFactory(handlers, max_frame_size=16380, async_=True)
SPOAFactory(Others())
SPOAFactory(NoHandlers())  # type: ignore[arg-type]
SPOAFactory({"plain": plain})  # type: ignore[arg-type]
SPOAService(SPOAFactory(Handlers({"plain": plain, "deferred": deferred, "coroutine": coroutine})), ["tcp:12345"])


async def reload(service: SPOAService) -> None:
    await service.when_ready()
    await service.reload(handlers)


async def ask() -> Value:
    """Return the value of a variable that an agent sets."""
    variables = await SPOEClient("tcp:127.0.0.1:12345").notify("plain", ip=IPv4Address("192.0.2.1"))
    return variables["sess.score"]


in_memory: dict[str, Value] = FakeHAProxy(handlers).notify("plain", ip=IPv4Address("192.0.2.1"))
together: dict[str, Value] = FakeHAProxy(handlers).notify(Message("plain"), Message("nothing"))
later: Deferred[dict[str, Value]] = FakeHAProxy(handlers).send("coroutine", 1, token="swordfish")
FakeHAProxy(handlers).send(Message("plain"), Message("nothing"))
FakeHAProxy(handlers).notify("plain", ip=1.5)  # type: ignore[call-overload]
FakeHAProxy(handlers).notify("plain", Message("nothing"))  # type: ignore[call-overload]
FakeHAProxy(handlers).send(Message("plain"), ip=1)  # type: ignore[call-overload]
failures: list[tuple[str, BaseException]] = [
    (failure.name, failure.error) for failure in FakeHAProxy(handlers).failures
]
