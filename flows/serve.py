"""`longfuse serve`: an OpenAI-compatible endpoint for a model; documents of any length go to the memory agent.

    longfuse serve --model outputs/rl/stage4/data
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "stage4", "messages": [...]}'

    client -- HTTP, one event loop (serve_app, serve_limits, serve_reply)
                 |  planned in a thread with a tokenizer of its own (serve_api, serve_plan)
                 v
              engine's thread (serve_engine, serve_job): one pass, or MemoryAgent

Listens on loopback unless there is a key. Standard output gets one line once requests are answered; SIGTERM and Ctrl-C
end the server with exit code 0, after the answers under way or `grace_seconds`.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from flows.eval_inputs import DEFAULT_MODEL, ModelFolder, agent_lengths, open_model_folder, train_config
from infra.settings import environment_values
from stages.common.errors import ConfigError, EnvironmentFailureError
from stages.memory.query import SplitBy

if TYPE_CHECKING:
    from flows.serve_app import ChatServer, ServerSettings, StartTrace
    from flows.serve_engine import Streaming
    from stages.engines.base import RolloutEngine
    from stages.memory.window import AgentLengths

KEY_VARIABLE = "LONGFUSE_API_KEY"
_TOP_P = 0.95


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What was asked for on the command line. None: what the model allows."""

    model: Path | None = None
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None
    max_concurrent: int = 8
    max_request_mb: int = 64
    max_answer_seconds: float = 3600.0
    max_answer_tokens: int | None = None
    window: int | None = None
    chunk_tokens: int | None = None
    memory_tokens: int | None = None
    split_question: SplitBy = "rules"
    answer_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 17
    grace_seconds: int = 10
    trace_mlflow: bool = False
    tracking_uri: str | None = None
    engine: str = "transformers"
    dtype: str = "bfloat16"
    threads: int = 2


def serve(request: ServeRequest) -> int:
    """Serve until a signal; the exit code. UserError for flags and models that cannot be used."""
    key = api_key(request.api_key_file)
    check_host(request.host, key)
    path = request.model or DEFAULT_MODEL
    if request.model is None and not path.exists():
        raise ConfigError(
            f"there is no {path} yet: name a model folder with --model DIR, or make one with `longfuse run`."
        )
    folder = open_model_folder(path)
    listener = listen(request.host, request.port)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    with listener, _tracer(request, folder.name) as tracer:
        server = build_server(request, folder, key, None if tracer is None else tracer.question)
        try:
            address = f"http://{_shown(request.host)}:{listener.getsockname()[1]}/v1"
            ready = f"Serving {request.name or folder.name} at {address}"
            http_server(server, request.grace_seconds, lambda: _say(ready)).run(sockets=[listener])
        finally:
            server.close()
    return 0


def api_key(file: Path | None) -> str | None:
    """The key that clients must send. ConfigError for a file without a usable one."""
    if file is None:
        key = environment_values({KEY_VARIABLE}).get(KEY_VARIABLE)
    else:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api-key-file {file} cannot be read: {error}.") from None
    if key is not None and not (key.isascii() and key.isprintable() and key and " " not in key):
        raise ConfigError(
            f"{file or KEY_VARIABLE} holds no usable API key: one line of printable ASCII without blanks, for example from "
            "`openssl rand -hex 32`."
        )
    return key


def check_host(host: str, key: str | None) -> None:
    """ConfigError for an address beyond this machine without a key."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and key is None:
        raise ConfigError(
            f"--host {host} is reachable from other machines, and without an API key everybody there could use the model "
            f"and this machine's memory. Give --api-key-file FILE or {KEY_VARIABLE}, or listen on 127.0.0.1."
        )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, before a model is loaded in vain. EnvironmentFailureError if the address cannot be had."""
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address, family=family)
    except OSError as error:
        raise EnvironmentFailureError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Choose another --port (0: any free one)."
        ) from None


def build_server(
    request: ServeRequest, folder: ModelFolder, key: str | None, start_trace: StartTrace | None = None
) -> ChatServer:
    """The server with its model loaded. InputError if the agent's lengths do not fit into the window."""
    from flows.serve_app import ChatServer
    from flows.serve_engine import EngineThread
    from flows.serve_plan import Planner
    from flows.stage import prepare_torch
    from stages.common.tokens import ChatTokenizer

    prepare_torch(request.threads)
    window = min(request.window or folder.window_tokens, folder.window_tokens)
    engine, streaming = _engine(request, folder.path, window)
    try:
        lengths = _lengths(request, engine.max_model_tokens)
        settings = server_settings(request, folder.name, key, lengths, streaming)
        bound = request.max_answer_tokens or max(engine.max_model_tokens // 2, lengths.answer)
        planner = Planner(ChatTokenizer(folder.path), engine.max_model_tokens, lengths, bound)
        _check(engine, lengths)
    except BaseException:
        engine.close()
        raise
    return ChatServer(EngineThread(engine), planner, settings, start_trace)


def server_settings(
    request: ServeRequest, name: str, key: str | None, lengths: AgentLengths, streaming: Streaming
) -> ServerSettings:
    """The server's side of the flags."""
    from flows.serve_app import ServerSettings
    from flows.serve_job import Sampling

    return ServerSettings(
        model=request.name or name,
        api_key=key,
        max_request_bytes=request.max_request_mb * 1_000_000,
        max_concurrent=request.max_concurrent,
        max_answer_seconds=request.max_answer_seconds,
        streaming=streaming,
        lengths=lengths,
        split_question=request.split_question,
        defaults=Sampling(temperature=request.temperature, top_p=_TOP_P, seed=request.seed),
    )


def _engine(request: ServeRequest, model_dir: Path, window: int) -> tuple[RolloutEngine, Streaming]:
    """As `longfuse ask` makes it, and how its tokens come."""
    config = train_config(request.engine, request.dtype, request.threads)
    if request.engine == "transformers":
        from flows.serve_transformers import WatchedTransformersEngine

        engine = WatchedTransformersEngine(
            model_dir, compute_dtype=config.compute_dtype, max_model_tokens=window, batch_groups=True
        )
        return engine, "tokens"
    from flows.remote_access import hand_over_remote_engine
    from stages.engines.build import build_engine

    hand_over_remote_engine()
    return build_engine(model_dir, config, max_model_tokens=window), "pieces"


def _lengths(request: ServeRequest, window: int) -> AgentLengths:
    """The agent's lengths as `longfuse ask` chooses them."""
    from stages.memory.window import AgentLengths

    chosen = agent_lengths(window, request.chunk_tokens, request.memory_tokens)
    return AgentLengths(
        chunk=chosen["chunk_tokens"],
        memory=chosen["memory_tokens"],
        plan=max(8, chosen["memory_tokens"] // 4),
        turn=chosen["turn_tokens"],
        answer=request.answer_tokens or chosen["answer_tokens"],
    )


def _check(engine: RolloutEngine, lengths: AgentLengths) -> None:
    from stages.memory.window import check_window

    check_window(lengths, engine, "", "")


def http_server(server: ChatServer, grace_seconds: int, on_ready: Callable[[], None]) -> uvicorn.Server:
    """What talks HTTP; `run(sockets=[...])` until a signal or `should_exit`. on_ready: called once it answers."""
    config = uvicorn.Config(
        server.app(),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
    )
    return _Server(config, on_ready)


class _Server(uvicorn.Server):
    """Ends on a signal without raising it again afterwards, so that what is open is closed and the exit code is 0."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        in_main_thread = threading.current_thread() is threading.main_thread()  # no other one hears signals
        handled = [signal.SIGINT, signal.SIGTERM] if in_main_thread else []
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _tracer(request: ServeRequest, model: str) -> Iterator[Any]:
    """Where questions are recorded; None if that was not asked for."""
    if not request.trace_mlflow:
        yield None
        return
    from flows.tracing import open_tracer

    with open_tracer("serve", model, request.tracking_uri) as tracer:
        yield tracer
