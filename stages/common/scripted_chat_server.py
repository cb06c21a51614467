"""A real OpenAI-compatible HTTP server on this machine whose replies are scripted: the one fake of chat endpoints.

    with ScriptedChatServer(lambda request: "42") as server:
        ...  # server.base_url, server.requests

A script is a function of the request body (or a list of replies, given in order, the last one again and again). It
returns text, or a `ScriptedReply` that misbehaves: another status, raw bytes, headers, a delay, a drip of single bytes,
a connection that breaks. Tests of everything that asks a model run against it over HTTP.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_MAX_REQUEST_BYTES = 64 << 20


@dataclass(frozen=True)
class ScriptedReply:
    """One answer of the server.

    text: content of a well-formed completion; body: raw bytes instead of it.
    delay_seconds: before the first byte. drip_seconds: between single bytes of the body. broken: the connection is
    closed in the middle of the body.
    """

    text: str = ""
    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    finish_reason: str | None = "stop"
    usage: Mapping[str, Any] | None = None
    delay_seconds: float = 0.0
    drip_seconds: float = 0.0
    broken: bool = False


Script = Callable[[dict[str, Any]], "str | ScriptedReply"]


class ScriptedChatServer:
    """Serves POST /v1/chat/completions on a free local port while inside `with`.

    requests: bodies received so far, in order. authorizations: their Authorization headers.
    """

    def __init__(self, script: Script | Sequence[str | ScriptedReply]) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`."""
        assert self._server is not None, "use ScriptedChatServer in `with`"
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ScriptedChatServer:
        owner = self

        class Handler(_Handler):
            scripted = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="scripted chat server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def play(self, script: Script | Sequence[str | ScriptedReply]) -> None:
        """Go on with another script, at the same address; `requests` begin anew."""
        with self._lock:
            self._script = script
            self.requests = []
            self.authorizations = []

    def answer(self, request: dict[str, Any], authorization: str | None) -> ScriptedReply:
        """Record a request and look up its reply."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.authorizations.append(authorization)
        script = self._script
        reply = script(request) if callable(script) else script[min(number, len(script) - 1)]
        return ScriptedReply(reply) if isinstance(reply, str) else reply

    def wait(self, seconds: float) -> bool:
        """Wait, but not beyond the server's end; True if the server ends."""
        return self._closing.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what slow replies are for."""
        del request, client_address


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if self.path != "/v1/chat/completions" or length > _MAX_REQUEST_BYTES:
            self.send_error(404)
            return
        request = json.loads(self.rfile.read(length))
        reply = self.scripted.answer(request, self.headers.get("Authorization"))
        if reply.delay_seconds and self.scripted.wait(reply.delay_seconds):
            return
        body = reply.body if reply.body is not None else json.dumps(completion(request, reply)).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.broken:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif reply.drip_seconds:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.scripted.wait(reply.drip_seconds):
                    return
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded, not printed."""


def completion(request: Mapping[str, Any], reply: ScriptedReply) -> dict[str, Any]:
    """The body of a well-formed reply; tokens are counted as words."""
    prompt = sum(len(str(message.get("content", "")).split()) for message in request.get("messages", []))
    usage = (
        reply.usage
        if reply.usage is not None
        else {
            "prompt_tokens": prompt,
            "completion_tokens": len(reply.text.split()),
        }
    )
    return {
        "id": "scripted",
        "object": "chat.completion",
        "model": request.get("model"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": reply.finish_reason,
            }
        ],
        "usage": dict(usage),
    }
