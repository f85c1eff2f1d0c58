"""An admin API of the test's making, for the operators' verbs: answers from a table, keeps what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Api", "envelope", "failure", "serving"]


def envelope(payload: object, *, status: str = "ok", http: int = 200) -> tuple[int, dict[str, Any]]:
    """An answer that tells a success, or `sync_pending`."""
    body = {"status": status, "action": "a", "payload": payload, "error_code": None, "error_detail": None}
    return http, body


def failure(code: str, detail: str = "why", *, http: int = 500) -> tuple[int, dict[str, Any]]:
    """An answer that tells a failure."""
    body = {"status": "error", "action": "a", "payload": None, "error_code": code, "error_detail": detail}
    return http, body


@dataclass
class Api:
    """The table: method and path to an answer, or to several, of which the last stays."""

    base: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def on(self, line: str, *answers: Any) -> None:
        self.answers[line] = list(answers)

    def body(self, line: str) -> Any:
        """What was sent with the last request of this kind."""
        return next(body for asked, body in reversed(self.asked) if asked == line)


@contextmanager
def serving() -> Iterator[Api]:
    """The API on a free port."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers["content-length"] or 0)
            line = f"{self.command} {self.path}"
            api.asked.append((line, json.loads(self.rfile.read(length)) if length else None))
            api.tokens.add(self.headers["authorization"])
            found = api.answers.get(line, [failure("NO_SUCH_STUB", line)])
            http, body = found.pop(0) if len(found) > 1 else found[0]
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(http)
            kind = "text/event-stream" if isinstance(body, str) else "application/json"
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.base = f"http://127.0.0.1:{server.server_port}"
    api.on("GET /hive/status", envelope({"hive_id": "h1", "uptime_ms": 90061000, "pid": 7}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
