# For mypy: what the tests use of pytest_twisted, which has no annotations.
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

_T = TypeVar("_T")
_Test = TypeVar("_Test", bound=Callable[..., object])
_Fixture = TypeVar("_Fixture", bound=Callable[..., AsyncIterator[object]])

def ensureDeferred(f: _Test) -> _Test: ...
def async_yield_fixture(f: _Fixture) -> _Fixture: ...
def blockon(d: Deferred[_T]) -> _T: ...
