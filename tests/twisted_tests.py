"""Runs Twisted's own tests for reactors over ``spoa_twisted.epollreactor`` and over Twisted's epoll reactor.

``python -m tests.twisted_tests NAME...`` runs the modules ``twisted.internet.test.test_NAME`` in the current folder. It
prints as JSON how many tests passed over our reactor, and the tests whose result differs, with both results. A test
that fails over both is no fault of ours: some of Twisted's tests fail as root, for example.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any, Final

from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.python.reflect import namedAny
from twisted.trial.reporter import TestResult
from twisted.trial.runner import TestLoader

REACTORS: Final = ("twisted.internet.epollreactor.EPollReactor", "spoa_twisted.epollreactor.LeanEPollReactor")

#: Twisted skips this test for its epoll reactor, by the name of the class: epoll does not tell of a descriptor that is
#: closed.
LEFT_OUT: Final = "test_lostFileDescriptor"

#: How often tests with different results run again. Some have time limits of their own, which a busy machine exceeds.
REPETITIONS: Final = 3


class Results(TestResult):
    """The result of each test: ``passed``, ``skipped``, or the text of the failure."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str] = {}

    def addSuccess(self, test: Any) -> None:
        self.of.setdefault(test.id(), "passed")

    def addSkip(self, test: Any, reason: Any) -> None:
        self.of[test.id()] = "skipped"

    def addFailure(self, test: Any, fail: Any) -> None:
        self.of[test.id()] = str(fail)

    def addError(self, test: Any, error: Any) -> None:
        self.addFailure(test, error)


def classes(names: list[str], reactor: Any) -> list[type[Any]]:
    """Return the classes of these modules that test this reactor."""
    modules = [importlib.import_module(f"twisted.internet.test.test_{name}") for name in names]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, ReactorBuilder) and value.reactorFactory is reactor]


def run(names: list[str], reactor: Any, only: set[str] | None = None) -> dict[str, str]:
    """Run the tests over one reactor.

    :param only: the keys of the tests to run; all without it.
    :return: the results. The keys are the same for each reactor.
    """
    results = Results()
    suffix = f"_{reactor.__name__}Tests"
    for tests in map(TestLoader().loadClass, classes(names, reactor)):
        for test in tests:
            key = test.id().replace(suffix, "")
            if LEFT_OUT not in key and (only is None or key in only):
                test.run(results)
    return {key.replace(suffix, ""): result for key, result in results.of.items()}


def main() -> None:
    """Run the tests, and print the result."""
    names = sys.argv[1:]
    # The modules make a class of tests for each reactor of this list when they are imported.
    ReactorBuilder._reactors = list(REACTORS)
    twisteds, ours = map(namedAny, REACTORS)
    expected, found = run(names, twisteds), run(names, ours)
    passed = list(found.values()).count("passed")

    def different() -> set[str]:
        return {key for key in expected.keys() | found if expected.get(key) != found.get(key) != "passed"}

    for _ in range(REPETITIONS):
        if again := different():
            expected.update(run(names, twisteds, again))
            found.update(run(names, ours, again))
    differences = {key: (expected.get(key), found.get(key)) for key in different()}
    json.dump({"passed": passed, "different": differences}, sys.stdout)


if __name__ == "__main__":
    main()
