"""The error of a function that uses asyncio on a reactor without an asyncio event loop. Its text says what to do."""

from __future__ import annotations

from asyncio import _get_running_loop as get_running_loop
from asyncio import isfuture
from typing import Any, Final, final

from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

_HINT: Final = (
    "this needs twistd --reactor=asyncio; an application installs twisted.internet.asyncioreactor before it imports"
    " the reactor"
)

# Exceptions that asyncio and the packages built on it raise if no event loop runs. sniffio and anyio, which httpx uses,
# have classes of their own. These packages may not be installed, so the classes are recognized by their names.
_TEXTS: Final = ("no running event loop", "There is no current event loop")
_CLASSES: Final = ("AsyncLibraryNotFoundError", "NoEventLoopError")

# How many exceptions of a chain are examined: a library may raise its own exception ``from`` the one of asyncio.
_MAX_CHAIN: Final = 10


@final
class AsyncioNeeded(RuntimeError):
    """A function has used asyncio, but no asyncio event loop runs in this thread."""


def explain(failure: Failure) -> Failure:
    """Return ``failure``, the failure of a handler, or of a startup, every or shutdown function.

    If the reason for it is that no event loop runs, return a Failure with the same traceback that says what to do.
    """
    if get_running_loop() is None and _is_reason(failure.value):
        error = failure.value
        needed = AsyncioNeeded(f"{safe_str(error)}: {_HINT}")
        needed.__cause__ = error
        return Failure(needed, AsyncioNeeded, failure.getTracebackObject())
    return failure


def needs_loop(awaited: Any) -> bool:
    """Return whether only an asyncio event loop can continue a coroutine that has yielded ``awaited``."""
    # asyncio.sleep(0) yields None. All other awaitables of asyncio yield a future.
    return awaited is None or isfuture(awaited)


def without_loop(awaited: Any) -> AsyncioNeeded:
    """Return the error for ``awaited``, which needs an event loop."""
    what = "asyncio.sleep(0)" if awaited is None else f"an asyncio {type(awaited).__name__}"
    return AsyncioNeeded(f"{what} was awaited, but no asyncio event loop runs: {_HINT}")


def _is_reason(error: BaseException | None) -> bool:
    reason = error
    for _ in range(_MAX_CHAIN):
        if reason is None or isinstance(reason, AsyncioNeeded):
            return False
        if _is_raised_without_loop(reason):
            return True
        reason = reason.__cause__ or reason.__context__
    return False


def _is_raised_without_loop(error: BaseException) -> bool:
    if isinstance(error, AttributeError):
        # A lock or a queue of asyncio that has to wait calls create_future() of a loop that is None.
        return error.name == "create_future" and error.obj is None
    if isinstance(error, RuntimeError):
        return type(error).__name__ in _CLASSES or safe_str(error).startswith(_TEXTS)
    return False
