"""An endpoint of the chat completions API to test agents with: a real HTTP server in a thread.

It checks every request against what the API documents, keeps it, and answers from a script: words, tool
calls, HTTP errors, silence, garbage. An empty script answers with the last message. Speaks TLS when given a
context.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["FakeOpenAI", "Scripted", "busy", "calls", "fails", "garbage", "says", "silent"]

ROLES = {"system", "user", "assistant", "tool"}
KEYS = {"model", "messages", "temperature", "max_tokens", "tools"}


@dataclass
class Scripted:
    """One answer of the script."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: threading.Event | None = None
    closes_early: bool = False


def _completion(message: dict[str, Any], reason: str) -> Scripted:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}
    return Scripted(body=json.dumps(body).encode())


def says(text: str) -> Scripted:
    """The model answers in words."""
    return _completion({"content": text}, "stop")


def calls(*functions: tuple[str, object]) -> Scripted:
    """The model calls tools: names and arguments."""
    wanted = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for n, (name, given) in enumerate(functions)
    ]
    return _completion({"content": None, "tool_calls": wanted}, "tool_calls")


def fails(status: int, message: str = "scripted", **headers: str) -> Scripted:
    """An HTTP error as the API words it."""
    body = {"error": {"message": message, "type": "test", "code": None}}
    return Scripted(status, json.dumps(body).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


def busy(retry_after: str = "0") -> Scripted:
    """429."""
    return fails(429, "slow down", retry_after=retry_after)


def garbage(body: bytes = b"<html>oops</html>") -> Scripted:
    """200, but not what the API promises."""
    return Scripted(body=body)


def silent() -> Scripted:
    """No answer until the server stops."""
    return Scripted(delay=threading.Event())


class FakeOpenAI:
    """The endpoint; use it in a ``with``.

    Attributes:
        script: answers still to give; append at any time.
        requests: bodies of all accepted requests.
        problems: what was wrong with requests; empty at the end of a good test.
        key: the bearer token that is asked for; ``None`` takes none.
    """

    def __init__(self, *answers: Scripted, key: str | None = "sk-test", tls: ssl.SSLContext | None = None):
        self.script = deque(answers)
        self.requests: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.key = key
        self._silent: list[threading.Event] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"

    @property
    def base_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for event in self._silent:
            event.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, authorization: str | None, body: bytes) -> Scripted:
        """Judge one request and choose its answer."""
        wanted = None if self.key is None else f"Bearer {self.key}"
        if authorization != wanted:
            return fails(401, "Incorrect API key provided")
        if path != "/v1/chat/completions":
            return fails(404, f"no {path}")
        problem = self._problem_of(body)
        if problem:
            self.problems.append(problem)
            return fails(400, problem)
        self.requests.append(json.loads(body))
        if self.script:
            chosen = self.script.popleft()
            if chosen.delay is not None:
                self._silent.append(chosen.delay)
            return chosen
        return says("heard: " + str(self.requests[-1]["messages"][-1]["content"]))

    def _problem_of(self, body: bytes) -> str | None:
        try:
            request = json.loads(body)
        except ValueError:
            return "the body is no JSON"
        if not isinstance(request, dict) or not KEYS.issuperset(request):
            return f"unknown keys: {sorted(set(request) - KEYS)}"
        if not isinstance(request.get("model"), str) or not request.get("messages"):
            return "model and messages are required"
        called: set[str] = set()
        for message in request["messages"]:
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                return f"role {role!r}"
            for call in message.get("tool_calls", ()):
                called.add(call["id"])
                json.loads(call["function"]["arguments"])
            if role == "tool" and message.get("tool_call_id") not in called:
                return "a tool message must answer a preceding tool call"
            if not isinstance(content, str) and not (role == "assistant" and message.get("tool_calls")):
                return f"content of {role} is {content!r}"
        for tool in request.get("tools", ()):
            parameters = tool["function"]["parameters"]
            if tool["type"] != "function" or parameters["type"] != "object":
                return "a tool is no function with an object"
            if not set(parameters.get("required", ())) <= set(parameters["properties"]):
                return "a required parameter is not declared"
        return None


def _handler(fake: FakeOpenAI) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            chosen = fake.answer(self.path, self.headers.get("authorization"), body)
            if chosen.delay is not None:
                chosen.delay.wait(60)
                self.close_connection = True
                return
            self.send_response(chosen.status)
            for name, value in chosen.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(chosen.body) + 10 * chosen.closes_early))
            self.end_headers()
            self.wfile.write(chosen.body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
