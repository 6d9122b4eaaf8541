"""The page in a browser: light and dark, on a desk and on a phone, in each state.

These tests are marked "soak": the browser takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from spoa_twisted.status.page import render
from spoa_twisted.status.report import Status
from spoa_twisted.status.verdict import assess
from tests.haproxy.summary import NOT_TESTED

from .chromium import Chromium, missing
from .examples import EXAMPLES, example, message, problem

pytestmark = pytest.mark.soak

#: The width and the height of windows on a desk, a tablet and a phone, and of the narrowest one that WCAG 2 demands.
WINDOWS = {
    "desk": (1200, 900),
    "small desk": (901, 700),
    "tablet": (768, 1024),
    "phone": (390, 844),
    "narrow": (320, 640),
}

#: WCAG 2.1, level AA, for text. Large text would need 3 only.
CONTRAST = 4.5

# Returns what the tests check. A color is "rgb(1, 2, 3)", and has a fourth number if it is transparent.
MEASURE = """
const texts = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const box = element.getBoundingClientRect();
  if (!walker.currentNode.data.trim() || box.width <= 1) continue;
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  texts.push([walker.currentNode.data, getComputedStyle(element).color, getComputedStyle(behind).backgroundColor,
              box.left, box.right]);
}
const overlaps = [];
for (const row of document.querySelectorAll("tr, .figures, .facts")) {
  const boxes = [...row.querySelectorAll("th, td, dt, dd")].map(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return [range.getBoundingClientRect(), cell.textContent];
  }).filter(([box]) => box.width > 1);
  boxes.forEach(([a, first], i) => boxes.slice(i + 1).forEach(([b, second]) => {
    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
      overlaps.push([first, second]);
  }));
}
const heading = document.querySelector("h1"), first = document.querySelector(".what, .none");
return {
  title: document.title, scroll: document.documentElement.scrollWidth, width: innerWidth, height: innerHeight,
  heading: heading.getBoundingClientRect().bottom, problem: first.getBoundingClientRect().bottom,
  colours: [getComputedStyle(heading).color, getComputedStyle(heading).backgroundColor,
            getComputedStyle(document.body).backgroundColor],
  mark: heading.querySelector("path").getTotalLength(), markBox: heading.querySelector("svg").clientWidth,
  texts: texts, overlaps: overlaps,
};
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    reason = missing()
    if reason is not None:
        pytest.skip(NOT_TESTED + reason)
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def channels(colour: str) -> list[float]:
    """Return red, green and blue of an opaque colour, from 0 to 255."""
    numbers = [float(number) for number in colour[colour.index("(") + 1 : -1].split(",")]
    assert len(numbers) == 3, colour
    return numbers


def luminance(colour: str) -> float:
    """Return the relative luminance, as WCAG 2 defines it."""
    linear = [
        value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
        for value in [channel / 255 for channel in channels(colour)]
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    dark, light = sorted([luminance(first), luminance(second)])
    return (light + 0.05) / (dark + 0.05)


def measured(chromium: Chromium, status: Status, window: str, scheme: str) -> dict[str, Any]:
    """Show the page, and return what MEASURE returns. Check what is true of all pages."""
    chromium.show(render(status), *WINDOWS[window], scheme)
    seen: dict[str, Any] = chromium.evaluate(MEASURE)
    assert seen["width"] == WINDOWS[window][0]
    assert seen["scroll"] <= seen["width"], "the page can be scrolled to the right"
    assert [text for text, _, _, left, right in seen["texts"] if left < 0 or right > seen["width"]] == []
    assert seen["overlaps"] == []
    assert [text for text, colour, behind, _, _ in seen["texts"] if contrast(colour, behind) < CONTRAST] == []
    # The policy of the page forbids nothing that the page has.
    assert chromium.complaints() == []
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_fault_is_on_the_first_screen(name: str, window: str, scheme: str, chromium: Chromium) -> None:
    """The verdict and the worst problem are seen without scrolling, and the verdict is in the title."""
    status = example(name)
    seen = measured(chromium, status, window, scheme)
    sentence = assess(status).sentence
    assert seen["title"].endswith(sentence)
    assert sentence in [text for text, *_ in seen["texts"]]
    assert seen["heading"] < seen["height"] / 2
    assert seen["problem"] < seen["height"]
    assert seen["mark"] > 0
    assert seen["markBox"] > 20
    assert (luminance(seen["colours"][2]) > 0.5) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_levels_differ(scheme: str, chromium: Chromium) -> None:
    """In the colours of the text and of the ground, and in the mark. A critical verdict differs most from the page."""
    names = ("all well", "reload refused", "handler failing")
    seen = [measured(chromium, example(name), "desk", scheme) for name in names]
    for position in (0, 1):
        assert len({page["colours"][position] for page in seen}) == 3
    assert len({page["mark"] for page in seen}) == 3
    difference = [contrast(page["colours"][1], page["colours"][2]) for page in seen]
    assert max(difference) == difference[2]


@pytest.mark.parametrize("window", WINDOWS)
def test_long_texts(window: str, chromium: Chromium) -> None:
    """Names and texts without a space are broken. Many rows and large numbers fit."""
    status = example("handler failing")
    long = "m" * 64
    for number in range(50):
        counts = {"error": 10**9, "timeout": 10**9, "unsendable": 10**9, "too_big": 10**9, "cancelled": 10**9}
        status["recent"]["messages"][f"{long}{number}"] = message((9.0, 10**9), ok=10**9, **counts)
    status["problems"] = [problem("HandlerFailed", long, "x" * 2000, 10**9, 10**6, 0)] * 30
    status["engines"] = [{**each, "engine": "e" * 200, "peer": "/run/" + "p" * 100} for each in status["engines"]]
    status["processes"] = status["processes"] * 8
    for each in status["processes"]:
        each.update({"state": "silent", "detail": "d" * 200, "connections": 10**6, "in_flight": 10**7})
        each.update({"blocking_waiting": 10**6, "held_back": 10**9, "cpu_seconds": 10.0**9})
    status["options"]["listen"] = "tcp:" + "1" * 300
    status["listen"] = ["unix:/" + "s" * 200]
    measured(chromium, status, window, "light")
