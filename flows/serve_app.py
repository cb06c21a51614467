"""The HTTP side of `longfuse serve`: GET /health, GET /v1/models, POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.serve_api import ChatCall, parse_chat
from flows.serve_engine import EngineThread, Streaming
from flows.serve_errors import ApiError
from flows.serve_job import Job, Sampling, Trace
from flows.serve_limits import Deadline, Slots, check_access, read_body
from flows.serve_plan import OnePass, Plan, Planner
from flows.serve_reply import Head, StreamedAnswer, api_error, whole_answer
from stages.memory.query import SplitBy
from stages.memory.window import AgentLengths

logger = logging.getLogger(__name__)

StartTrace = Callable[[str, dict[str, object]], Trace]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """model: the name that requests must give. api_key: None: none is asked for, and only localhost is answered."""

    model: str
    api_key: str | None
    max_request_bytes: int
    max_concurrent: int
    max_answer_seconds: float
    streaming: Streaming
    lengths: AgentLengths
    split_question: SplitBy
    defaults: Sampling


class ChatServer:
    """Answers requests with an engine.

    planner: with a tokenizer of its own. start_trace: (question, attributes) -> where its turns go; None: nowhere.
    """

    def __init__(
        self, host: EngineThread, planner: Planner, settings: ServerSettings, start_trace: StartTrace | None = None
    ) -> None:
        self._host = host
        self._planner = planner
        self._settings = settings
        self._start_trace = start_trace
        self._planning = ThreadPoolExecutor(1, thread_name_prefix="serve-plan")
        self._started = int(time.time())
        self.slots = Slots(settings.max_concurrent)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/v1/models", self._guarded(self._models), methods=["GET"]),
                Route("/v1/models/{name:path}", self._guarded(self._model), methods=["GET"]),
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    def close(self) -> None:
        """End what runs, and the engine."""
        self._planning.shutdown(cancel_futures=True)
        self._host.close()

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        """Access is checked first, and every error has OpenAI's form."""

        async def guarded(request: Request) -> Response:
            try:
                check_access(request, self._settings.api_key)
                return await endpoint(request)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:  # becomes an answer; unexpected ones are logged  # noqa: BLE001
                return _error(api_error(error))

        return guarded

    async def _health(self, _request: Request) -> Response:
        if self._host.failure is not None:
            return JSONResponse({"status": "failed", "error": str(self._host.failure)}, 503)
        return JSONResponse({"status": "ok"})

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, object]:
        return {"id": self._settings.model, "object": "model", "created": self._started, "owned_by": "longfuse"}

    def _check_model(self, name: str) -> None:
        if name != self._settings.model:
            raise ApiError(
                404,
                f"there is no model {name[:200]!r} here, only {self._settings.model!r}.",
                param="model",
                code="model_not_found",
            )

    async def _chat(self, request: Request) -> Response:
        give_back = self.slots.take()
        deadline = Deadline(self._settings.max_answer_seconds)
        try:
            body = await read_body(request, self._settings.max_request_bytes)
            call, plan = await asyncio.get_running_loop().run_in_executor(self._planning, self._prepare, body)
            trace = None if self._start_trace is None else self._start_trace(*_traced(call, plan))
            job = Job(
                self._host,
                self._settings.streaming,
                self._settings.lengths,
                self._settings.split_question,
                self._settings.defaults,
                call,
                plan,
                trace,
                deadline,
                give_back,
            )
        except BaseException:
            give_back()
            raise
        head = Head(self._settings.model)
        if call.stream:
            return StreamedAnswer(job, head, call.include_usage)
        answer = await whole_answer(job, head, request.receive)
        return Response(status_code=499) if answer is None else JSONResponse(answer)

    def _prepare(self, body: bytes) -> tuple[ChatCall, Plan]:
        """Parse and plan; seconds for a long conversation, so not in the event loop."""
        call = parse_chat(body)
        self._check_model(call.model)
        return call, self._planner.plan(call)


def _traced(call: ChatCall, plan: Plan) -> tuple[str, dict[str, object]]:
    if isinstance(plan, OnePass):
        return call.messages[-1].texts[-1], {"mode": "one_pass"}
    return plan.question, {"mode": "agent", "document_characters": len(plan.document)}


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    """An address or a method that is not there."""
    assert isinstance(error, HTTPException)
    return _error(ApiError(error.status_code, f"{error.detail}: see GET /v1/models, POST /v1/chat/completions."))
