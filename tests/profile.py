"""How many examples Hypothesis tries: a few, the same in every run; with ``SPOA_EXAMPLES=20000`` others each time.

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

#: For a property; a machine, each of whose examples takes many steps, has fewer.
EXAMPLES = int(_WANTED) if _WANTED else 150

#: A machine that soaks has so many times the examples of the default run.
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
    # Looking for fewer steps that fail takes longer than a test may.
    phases=[phase for phase in Phase if _WANTED or phase is not Phase.shrink],
)


def holds_for(*strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test with an example of each of ``strategies`` for its last parameters.

    To pytest it is a plain function: pytest-twisted would take each example through a turn of the reactor.
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
    """Take random steps with machines of one kind, and try to break it.

    :param times: how many times as many examples as :data:`MACHINE` says.
    """
    several = settings(MACHINE, max_examples=times * MACHINE.max_examples)
    run_state_machine_as_test(machine, settings=several)
