"""Makes the picture of the page in the documentation: ``python -m tests.status.screenshot``.

Run it when the page looks different. It needs Chromium: see :mod:`tests.status.chromium`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from spoa_twisted.status.page import render
from tests.programs import ROOT

from .chromium import Chromium, missing
from .examples import example

PICTURE = ROOT / "docs" / "status.png"

#: In pixels. The height is the end of the table of workers.
WIDTH = 960
HEIGHT = 970


def main() -> None:
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    # The page has times in the local time zone.
    os.environ["TZ"] = "UTC"
    time.tzset()
    with tempfile.TemporaryDirectory() as folder, Chromium(Path(folder)) as browser:
        browser.show(render(example("handler failing")), WIDTH, HEIGHT, "light")
        PICTURE.write_bytes(browser.screenshot(HEIGHT))


if __name__ == "__main__":
    main()
