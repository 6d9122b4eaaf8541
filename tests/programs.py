"""The programs that tests run, with this checkout's package in this interpreter."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

#: As an environment in which the package is installed from this checkout.
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

SPOACTL: Final = [sys.executable, "-c", "from spoa_twisted.ctl import main; main()"]
TWISTD: Final = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
TWIST: Final = [sys.executable, "-m", "twisted", "--log-format=text"]
