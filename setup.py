"""The package stands in setup.cfg. This only compiles spoa_twisted/spop with mypyc, where that is asked for."""

import os
import sys
from glob import glob

from setuptools import setup

# What the compiler is not for: a text, and exceptions, which nothing waits for.
PURE = {"__init__.py", "errors.py"}

if os.environ.get("SPOA_TWISTED_MYPYC") != "1":
    setup()
elif "egg_info" in sys.argv:
    # pip asks what the build needs. pyproject.toml cannot say it: it does not know of the variable.
    setup(setup_requires=["mypy[mypyc]>=1.11"])
else:
    from mypyc.build import mypycify

    modules = [path for path in sorted(glob("spoa_twisted/spop/*.py")) if os.path.basename(path) not in PURE]
    # mypy's plugins are for zope.interface, which spop does not know; the rest of the package is not compiled.
    options = ["--config-file=", "--follow-imports=silent", *modules]
    setup(ext_modules=mypycify(options, opt_level="3", group_name="spoa_twisted_spop"))
