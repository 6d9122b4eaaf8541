"""Hypothesis profiles: ``short`` tries a few examples, the same in every run; ``nightly`` 100 times as many, new ones.

``tests/conftest.py`` imports this module, so that ``pytest --hypothesis-profile=nightly`` finds the profile.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

#: A test run uses this profile, unless the option ``--hypothesis-profile`` names another one.
SHORT = "short"

#: Its tests have no time limit. A failing example is printed, with a decorator that runs it again. It is also kept in
#: the folder ``.hypothesis``, and the next run with this profile begins with it.
NIGHTLY = "nightly"

#: The number of examples of a property in the profile ``short``.
EXAMPLES = 150

#: A state machine gets one example for this number of examples of a property, because its examples have many steps.
MACHINE = 10

#: A state machine in a test marked "soak" tries this many times as many examples as in a default test.
SOAK = 5

#: Hypothesis keeps all examples of a run in memory: 0.3 MiB were measured for an example of a state machine. So a state
#: machine with more examples than this has several runs. Not with the profile ``short``: its runs are all the same.
EXAMPLES_OF_A_RUN = 500

_COMMON = settings(
    deadline=None,
    print_blob=True,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(SHORT, _COMMON, max_examples=EXAMPLES, derandomize=True, database=None)
# Hypothesis has no database in CI, unless a profile names one.
settings.register_profile(
    NIGHTLY,
    _COMMON,
    max_examples=100 * EXAMPLES,
    derandomize=False,
    database=DirectoryBasedExampleDatabase(".hypothesis/examples"),
)
settings.load_profile(SHORT)


def holds_for(*strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a test that takes an example of each of ``strategies`` as its last arguments.

    The result is a plain function, which hides from pytest-twisted that Hypothesis runs it: pytest-twisted would run
    each example in a turn of the reactor, which takes long. Write ``@reproduce_failure(...)`` below this decorator.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        tested = given(*strategies)(function)

        def test(**arguments: Any) -> None:
            tested(**arguments)

        test.__signature__ = inspect.signature(tested)  # type: ignore[attr-defined]
        test.__name__, test.__doc__, test.__module__ = function.__name__, function.__doc__, function.__module__
        return test

    return decorate


def run_machine(machine: type[RuleBasedStateMachine], times: int = 1) -> None:
    """Run a state machine with random steps, and fail if one of its assertions fails.

    :param times: a factor for the number of examples.
    """
    profile = settings()
    phases = profile.phases
    if profile.derandomize:
        # This is the profile "short", with which a test has a time limit. To shrink a failing example to fewer steps
        # can take longer than that.
        phases = [phase for phase in phases if phase is not Phase.shrink]
    examples = times * profile.max_examples // MACHINE
    while examples > 0:
        in_this_run = examples if profile.derandomize else min(examples, EXAMPLES_OF_A_RUN)
        run_state_machine_as_test(machine, settings=settings(profile, max_examples=in_this_run, phases=phases))
        examples -= in_this_run
