"""The package stands in setup.cfg. This only compiles modules with mypyc, where that is asked for."""

import os
import sys
from glob import glob

from setuptools import setup

# The modules that run for each NOTIFY. mypyc cannot compile all of them: neither subclasses of most classes of others
# (Twisted's Protocol, exceptions), nor classes with decorators. And what awaits in compiled code is no CoroutineType.
MODULES = {
    "spop": [os.path.basename(path)[:-3] for path in glob("spoa_twisted/spop/*.py")],
    "handlers": [
        "binding",
        "calling",
        "coroutines",
        "deadlines",
        "exchange",
        "handler",
        "hold_ups",
        "outcome",
        "pending",
        "pending_call",
    ],
    "agent": ["answering", "awaited", "in_flight", "intake", "next_turn", "outbox", "records"],
    "status": ["counters"],
}
PURE = {"__init__", "errors"}

if os.environ.get("SPOA_TWISTED_MYPYC") != "1":
    setup()
elif "egg_info" in sys.argv:
    # pip asks what the build needs. pyproject.toml cannot say it: it does not know of the variable. The compiler of
    # mypy 1.18 fails with an AssertionError.
    setup(setup_requires=["mypy[mypyc]>=2.4"])
else:
    from mypyc.build import mypycify

    modules = [f"spoa_twisted/{part}/{name}.py" for part in MODULES for name in sorted({*MODULES[part]} - PURE)]
    # All that is not compiled has the type Any, whether or not it is installed. So mypyc compiles no type checks for
    # it, and mypy needs no plugin for zope.interface.
    options = ["--config-file=", "--follow-imports=skip", "--ignore-missing-imports", *modules]
    setup(ext_modules=mypycify(options, opt_level="3", group_name="spoa_twisted"))
