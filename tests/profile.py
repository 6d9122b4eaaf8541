"""Hypothesis settings: by default a few examples, the same in every run. ``SPOA_EXAMPLES=20000`` tries new ones.

``SPOA_EXAMPLES=20000 python -m pytest --timeout=0 tests/spop/test_properties.py tests/spop/test_conversations.py
tests/test_sessions.py`` runs for some minutes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

_WANTED = os.environ.get("SPOA_EXAMPLES")

#: Examples of a property. By default a state machine gets fewer, because each of its examples has many steps.
EXAMPLES = int(_WANTED) if _WANTED else 150

#: A state machine in a test marked "soak" tries this many times as many examples as in a default test.
SOAK = 1 if _WANTED else 5

PROPERTY = settings(
    max_examples=EXAMPLES,
    derandomize=_WANTED is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MACHINE = settings(
    PROPERTY,
    max_examples=EXAMPLES if _WANTED else EXAMPLES // 10,
    stateful_step_count=40,
    # Shrinking a failing example to fewer steps can take longer than the time limit of a test.
    phases=[phase for phase in Phase if _WANTED or phase is not Phase.shrink],
)


def holds_for(*strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a test that takes an example of each of ``strategies`` as its last arguments.

    The result is a plain function, which hides from pytest-twisted that Hypothesis runs it: pytest-twisted would run
    each example in a turn of the reactor, which takes long.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        tested = PROPERTY(given(*strategies)(function))

        def test(**arguments: Any) -> None:
            tested(**arguments)

        test.__signature__ = inspect.signature(tested)  # type: ignore[attr-defined]
        test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
        return test

    return decorate


def run_machine(machine: type[RuleBasedStateMachine], times: int = 1) -> None:
    """Run a state machine with random steps, and fail if one of its assertions fails.

    :param times: a factor for the number of examples of :data:`MACHINE`.
    """
    several = settings(MACHINE, max_examples=times * MACHINE.max_examples)
    run_state_machine_as_test(machine, settings=several)
