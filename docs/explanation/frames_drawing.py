"""Draws frames.svg: the frames between a client, HAProxy and an agent, from top to bottom.

    python docs/explanation/frames_drawing.py

writes the file beside this one. The page includes the SVG as a part of its HTML, so that it takes the colours of the
page, light or dark. It is narrow, so that the text is readable on a phone too.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FILE = Path(__file__).with_name("frames.svg")

# Units of the drawing. A page with more room than WIDTH shows it enlarged, up to 600 pixels.
WIDTH = 400
CLIENT, HAPROXY, AGENT = 36, 148, 372
#: The place between two arrows, and the place for the title of a part.
STEP, TITLE = 26, 34

#: The parts: a title, and its arrows as (from, to, text).
PARTS: list[tuple[str, list[tuple[int, int, str]]]] = [
    (
        "Health check, on its own connection",
        [
            (HAPROXY, AGENT, "HAPROXY-HELLO, healthcheck"),
            (AGENT, HAPROXY, "AGENT-HELLO, close"),
        ],
    ),
    (
        "The first request opens a connection",
        [
            (CLIENT, HAPROXY, "GET /"),
            (HAPROXY, AGENT, "HAPROXY-HELLO"),
            (AGENT, HAPROXY, "AGENT-HELLO"),
            (HAPROXY, AGENT, "NOTIFY 1:1 check-ip(ip)"),
            (AGENT, HAPROXY, "ACK 1:1 txn.allowed=false"),
            (HAPROXY, CLIENT, "403"),
        ],
    ),
    (
        "The next one uses it again",
        [
            (CLIENT, HAPROXY, "GET /"),
            (HAPROXY, AGENT, "NOTIFY 3:1"),
            (AGENT, HAPROXY, "ACK 3:1"),
            (HAPROXY, CLIENT, "200"),
        ],
    ),
    (
        "Pipelining: two at a time, in any order",
        [
            (CLIENT, HAPROXY, "GET /a"),
            (HAPROXY, AGENT, "NOTIFY 5:1"),
            (CLIENT, HAPROXY, "GET /b"),
            (HAPROXY, AGENT, "NOTIFY 7:1"),
            (AGENT, HAPROXY, "ACK 7:1"),
            (HAPROXY, CLIENT, "200 (b)"),
            (AGENT, HAPROXY, "ACK 5:1"),
            (HAPROXY, CLIENT, "200 (a)"),
        ],
    ),
    (
        "The agent stops",
        [
            (AGENT, HAPROXY, "AGENT-DISCONNECT, close"),
        ],
    ),
]

STYLE = """\
.spop-frames{display:block;width:100%;max-width:600px;height:auto;margin:1em 0;font:12px sans-serif;fill:currentColor}
.spop-frames path{stroke:currentColor;fill:none;stroke-width:1.2}
.spop-frames .line{stroke-dasharray:2 3;opacity:.5}
.spop-frames .head{font-weight:bold;font-size:13px}
.spop-frames .title{font-style:italic}
.spop-frames .rule{opacity:.3}"""

ALTERNATIVE = (
    "The frames between a client, HAProxy and an agent, in the order of time. The list below the drawing says the same."
)


def arrow(start: int, end: int, y: int, text: str) -> list[str]:
    """Return an arrow with its text above it."""
    back = -5 if end > start else 5
    return [
        f'<path d="M{start} {y}H{end}M{end + back} {y - 4}L{end} {y}L{end + back} {y + 4}"/>',
        f'<text x="{(start + end) // 2}" y="{y - 5}" text-anchor="middle">{escape(text)}</text>',
    ]


def draw() -> str:
    """Return the text of the SVG."""
    body: list[str] = []
    y = 24
    for title, arrows in PARTS:
        y += TITLE
        body.append(f'<path class="rule" d="M0 {y - 20}H{WIDTH}"/>')
        body.append(f'<text class="title" x="4" y="{y - 5}">{escape(title)}</text>')
        # The lines of the three begin below the title, so that they do not cross it.
        top = y + 2
        for start, end, text in arrows:
            y += STEP
            body += arrow(start, end, y, text)
        body += [f'<path class="line" d="M{x} {top}V{y + 12}"/>' for x in (CLIENT, HAPROXY, AGENT)]
    height = y + 16
    for x, name in ((CLIENT, "client"), (HAPROXY, "HAProxy"), (AGENT, "agent")):
        anchor = "end" if x == AGENT else "middle"
        end = WIDTH - 4 if x == AGENT else x
        body.insert(0, f'<text class="head" x="{end}" y="16" text-anchor="{anchor}">{name}</text>')
    opening = (
        f'<svg class="spop-frames" viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" role="img"'
        ' aria-labelledby="spop-frames-title">'
    )
    return "\n".join(
        [
            opening,
            f'<title id="spop-frames-title">{escape(ALTERNATIVE)}</title>',
            f"<style>{STYLE}</style>",
            *body,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    FILE.write_text(draw())
