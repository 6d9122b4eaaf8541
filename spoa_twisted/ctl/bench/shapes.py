"""The messages that ``spoactl bench`` sends unless the command line names one."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from spoa_twisted.spop.messages import Message

#: By the value of ``--shape``: one argument, the arguments that describe an HTTP request, and a body of 8 KiB.
SHAPES: Final = {
    "small": Message("get-ip-reputation", [("ip", IPv4Address("192.0.2.1"))]),
    "http": Message(
        "check-request",
        [
            ("method", "GET"),
            ("path", "/articles/2024/05/how-to-measure?page=2"),
            ("host", "www.example.com"),
            ("user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0"),
            ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
            ("accept_encoding", "gzip, deflate, br"),
            ("accept_language", "en-GB,en;q=0.7,de;q=0.3"),
            ("cache_control", "no-cache"),
            # A header that the request does not have: HAProxy sends NULL for it.
            ("content_type", None),
            ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
            ("referer", "https://www.example.com/articles/"),
            ("x_forwarded_for", "198.51.100.7"),
            ("src", IPv4Address("192.0.2.1")),
            ("src_port", 40312),
            ("dst", IPv4Address("192.0.2.80")),
            ("dst_port", 443),
        ],
    ),
    "body": Message("check-body", [("body", bytes(range(256)) * 32)]),
}
