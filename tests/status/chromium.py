"""Shows pages in a headless Chromium, which ``chromedriver`` controls over HTTP, as the WebDriver standard says.

Both are packages of Debian: ``apt-get install chromium chromium-driver``. No library is needed.
"""

from __future__ import annotations

import base64
import json
import shutil
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.programs import LIMIT, Program

if TYPE_CHECKING:
    from typing_extensions import Self

#: The browser runs as root in CI, and contacts no server: it only shows files.
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def missing() -> str | None:
    """Return why there is no browser, and how to change that, or ``None`` if there is one."""
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    return None


class Chromium:
    """A browser with one window. As a context manager, it ends the browser.

    :param folder: an empty folder for the page and the browser's files.
    """

    def __init__(self, folder: Path) -> None:
        self._page = folder / "page.html"
        self._driver = Program(["chromedriver", "--port=0"])
        try:
            self._port = self._driver.said(r"was started successfully on port (\d+)")[1]
            options = {
                "binary": shutil.which("chromium"),
                "args": [*_FLAGS, f"--user-data-dir={folder / 'profile'}"],
            }
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = self._call("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self._driver.kill()
            raise
        self._session = f"/session/{session}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            # Ends the browser.
            self._call(self._session, None, "DELETE")
        finally:
            self._driver.kill()

    def show(self, page: bytes, width: int, height: int, scheme: str) -> None:
        """Show a page.

        :param width: of the window, in pixels of CSS.
        :param height: of the window.
        :param scheme: the user's preference: ``light`` or ``dark``.
        """
        self._page.write_bytes(page)
        self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self._devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call(f"{self._session}/url", {"url": self._page.as_uri()})

    def evaluate(self, script: str) -> Any:
        """Return what ``script``, the body of a function, returns."""
        return self._call(f"{self._session}/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """Return what the browser wrote to its console since the last call: what a policy forbids, for example."""
        return [entry["message"] for entry in self._call(f"{self._session}/se/log", {"type": "browser"})]

    def screenshot(self, height: int) -> bytes:
        """Return the upper part of the page as a PNG; its width is that of the window."""
        width = self.evaluate("return innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def _devtools(self, command: str, **parameters: Any) -> Any:
        return self._call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, path: str, body: Any, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT) as response:
            return json.load(response)["value"]
