"""Events of Twisted's log -> lines of JSON: one flat object for each event.

Each line is a JSON object, whatever the event holds: log collectors drop a line that is not. So a value that JSON
cannot represent becomes a text, and a value that cannot even be shown becomes a text that says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from json import dumps
from typing import Any, Final

from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from spoa_twisted.escaping import TRACEBACK

# Characters. Docker and other log collectors cut a line of more than 16 KiB, and then it is no JSON. So the texts of an
# event are cut.
_MAX_MESSAGE: Final = 4000
_MAX_VALUE: Final = 1000
# Of a traceback, the end is kept: the exception was raised there.
_MAX_TRACEBACK: Final = 8000

# Log collectors store an integer in 64 bits. Some refuse the whole line if it does not fit.
_INTEGERS: Final = range(-(2**63), 2**63)

# Seconds, as a Unix time. Python has no later dates.
_YEAR_9999: Final = 253_370_764_800

# The keys that Twisted adds to each event of the old log.msg(). Their meaning is in the standard fields.
_LEGACY: Final = frozenset({"message", "time", "isError", "format", "failure", "why", "logLevel", "printed"})


def json_line(event: dict[str, Any]) -> str:
    """Return ``event`` as one line, with its line break. The line has only ASCII characters.

    The fields ``time`` (UTC), ``level``, ``logger`` and ``message`` come first, and ``traceback`` comes last, if there
    is one. The event's own fields stand between them. If one of them has the name of a standard field, it gets ``_`` at
    the end of its name.
    """
    fields: dict[str, Any] = {
        "time": _guarded(_time, event),
        "level": _guarded(_level, event),
        "logger": _guarded(_value, event.get("log_namespace", "-")),
        "message": _guarded(_message, event),
    }
    traceback = _traceback_of(event)
    taken = {*fields, "traceback"}
    for key, value in _own_fields(event):
        if key == "traceback" and value is traceback:
            continue
        name = _clean(key)
        while name in taken:
            name += "_"
        taken.add(name)
        fields[name] = _guarded(_value, value)
    if traceback is not None:
        fields["traceback"] = _guarded(_traceback, traceback)
    return dumps(fields) + "\n"


def _guarded(convert: Callable[[Any], Any], value: Any) -> Any:
    """Return the result of ``convert``. An object in an event may raise any exception when its text is made."""
    try:
        return convert(value)
    except BaseException:
        return f"(a {type(value).__name__} that cannot be shown)"


def _time(event: dict[str, Any]) -> str:
    seconds = event.get("log_time")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < _YEAR_9999:
        seconds = time.time()
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _level(event: dict[str, Any]) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _message(event: dict[str, Any]) -> str:
    text = event.get("log_format")
    if isinstance(text, str) and text.endswith(TRACEBACK):
        # log_failure() has put the traceback into the message. Here it has a field of its own.
        event = {**event, "log_format": text.removesuffix(TRACEBACK)}
    text = formatEvent(event)
    if _is_legacy(event) and isinstance(event.get("failure"), Failure):
        # The old log.err() puts the traceback into the message, too.
        text, _, _ = text.partition("\n")
    return _text(text, _MAX_MESSAGE)


def _is_legacy(event: dict[str, Any]) -> bool:
    """Return whether the event comes from the old ``twisted.python.log``."""
    return "log_logger" not in event and ("isError" in event or "message" in event)


def _traceback_of(event: dict[str, Any]) -> Failure | str | None:
    """Return the event's failure, or the text of a traceback that the event has instead."""
    found = event.get("log_failure", event.get("failure") if _is_legacy(event) else None) or event.get("traceback")
    return found if isinstance(found, (Failure, str)) else None


def _traceback(traceback: Failure | str) -> str:
    text = traceback if isinstance(traceback, str) else traceback.getTraceback()
    return _clean(text[-_MAX_TRACEBACK:])


def _own_fields(event: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    # The number of a worker comes first: it is as important as the name of the logger.
    if "worker" in event:
        yield "worker", event["worker"]
    legacy = _is_legacy(event)
    for key, value in event.items():
        # An item whose name begins with "_" is only a part of the text, as in spoa_twisted.log.
        if not isinstance(key, str) or key == "worker" or key.startswith(("log_", "_")):
            continue
        if not ((legacy and key in _LEGACY) or _is_from_wrapper(key, value, event)):
            yield key, value


def _is_from_wrapper(key: str, value: Any, event: dict[str, Any]) -> bool:
    """Return whether Twisted added this item for an observer of the old log. All observers receive the same dict."""
    if key == "message":
        return isinstance(value, tuple) and not value
    if key == "format":
        return isinstance(value, str) and value == "%(log_legacy)s"
    if key == "system":
        return isinstance(value, str) and value == (event.get("log_system", "-") if "log_logger" in event else "-")
    if key == "time":
        return value is event.get("log_time")
    if key == "failure":
        return value is event.get("log_failure")
    return key == "isError" or (key == "why" and "log_failure" in event)


def _value(value: Any) -> Any:
    """Return ``value`` if JSON can represent it, and its text if not."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number in _INTEGERS else _text(str(number), _MAX_VALUE)
    if isinstance(value, float):
        # JSON has no infinity and no NaN.
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[:_MAX_VALUE]).decode("utf-8", "backslashreplace")
    return _text(value if isinstance(value, str) else safe_str(value), _MAX_VALUE)


def _text(text: str, size: int) -> str:
    return _clean(text if len(text) <= size else f"{text[:size]}...")


def _clean(text: str) -> str:
    # Not every parser accepts the escape of a lone surrogate, \udc80. So write it as text, as the text log does.
    return str.encode(text, "utf-8", "backslashreplace").decode("utf-8")
