"""Stands for the authentication service at a first try. It knows one session, and no login page.

python service.py
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = {"session=swordfish": "alice"}


class Service(BaseHTTPRequestHandler):
    # Connections stay open for the next check.
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        user = USERS.get(self.headers.get("Cookie", ""))
        self.send_response(200 if user else 401)
        if user:
            self.send_header("X-User", user)
        self.send_header("Content-Length", "0")
        self.end_headers()


print("listening on 127.0.0.1:8082", flush=True)
ThreadingHTTPServer(("127.0.0.1", 8082), Service).serve_forever()
