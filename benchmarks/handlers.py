"""Handlers for the three message shapes of ``spoactl bench``, once for each kind of handler. Each sets one variable.

Run ``twistd spoa --handlers benchmarks/handlers.py:sync``, and likewise for the other kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from twisted.internet.defer import Deferred, succeed

from spoa_twisted import Handlers, Variables


def _with_deferreds(answer: Callable[[], Deferred[Variables]]) -> Handlers:
    handlers = Handlers()

    @handlers.message("get-ip-reputation")
    def get_ip_reputation(ip: IPv4Address) -> Deferred[Variables]:
        return answer()

    @handlers.message("check-request")
    def check_request(
        method: str, path: str, host: str, user_agent: str, src: IPv4Address, **others: Any
    ) -> Deferred[Variables]:
        return answer()

    @handlers.message("check-body")
    def check_body(body: bytes) -> Deferred[Variables]:
        return answer()

    return handlers


def _in_next_turn() -> Deferred[Variables]:
    # Not at the top of the module: this import installs the default reactor, before twistd --reactor chooses one.
    from twisted.internet import reactor

    later: Deferred[Variables] = Deferred()
    reactor.callLater(0, later.callback, {"sess.score": 20})
    return later


#: Functions that return the variables.
sync = Handlers()


@sync.message("get-ip-reputation")
def _get_ip_reputation(ip: IPv4Address) -> Variables:
    return {"sess.score": 20}


@sync.message("check-request")
def _check_request(method: str, path: str, host: str, user_agent: str, src: IPv4Address, **others: Any) -> Variables:
    return {"sess.score": 20}


@sync.message("check-body")
def _check_body(body: bytes) -> Variables:
    return {"sess.score": 20}


#: Functions that return a Deferred that has fired.
fired = _with_deferreds(lambda: succeed({"sess.score": 20}))

#: Functions that return a Deferred that fires in the next turn of the reactor.
later = _with_deferreds(_in_next_turn)

#: Coroutines that do not wait.
coroutine = Handlers()


@coroutine.message("get-ip-reputation")
async def _get_ip_reputation_at_once(ip: IPv4Address) -> Variables:
    return {"sess.score": 20}


@coroutine.message("check-request")
async def _check_request_at_once(
    method: str, path: str, host: str, user_agent: str, src: IPv4Address, **others: Any
) -> Variables:
    return {"sess.score": 20}


@coroutine.message("check-body")
async def _check_body_at_once(body: bytes) -> Variables:
    return {"sess.score": 20}


#: Coroutines that await a Deferred that has fired.
awaiting = Handlers()


@awaiting.message("get-ip-reputation")
async def _await_ip_reputation(ip: IPv4Address) -> Variables:
    return await succeed({"sess.score": 20})


@awaiting.message("check-request")
async def _await_check_request(
    method: str, path: str, host: str, user_agent: str, src: IPv4Address, **others: Any
) -> Variables:
    return await succeed({"sess.score": 20})


@awaiting.message("check-body")
async def _await_check_body(body: bytes) -> Variables:
    return await succeed({"sess.score": 20})


#: Coroutines that await a Deferred that fires in the next turn of the reactor.
waiting = Handlers()


@waiting.message("get-ip-reputation")
async def _wait_for_ip_reputation(ip: IPv4Address) -> Variables:
    return await _in_next_turn()


@waiting.message("check-request")
async def _wait_for_check_request(
    method: str, path: str, host: str, user_agent: str, src: IPv4Address, **others: Any
) -> Variables:
    return await _in_next_turn()


@waiting.message("check-body")
async def _wait_for_check_body(body: bytes) -> Variables:
    return await _in_next_turn()
