"""What `longfuse eval` evaluates: a model folder under one of our engines, or a model behind an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.eval_inputs import (
    PAPER_WINDOW_TOKENS,
    ModelFolder,
    endpoint_config,
    open_endpoints,
    open_model_folder,
    train_config,
)
from flows.eval_request import EvalRequest
from flows.remote_access import hand_over_remote_engine
from stages.common.chat_client import OpenAIChat
from stages.common.config import EndpointConfig
from stages.common.errors import ConfigError
from stages.common.storage import md5_of_file

if TYPE_CHECKING:
    from stages.evaluation.asking import OpenEngine

# Questions under way at once; 0: batches in order, whose numerics a kill does not change.
_CONCURRENT = {"transformers": 0, "vllm": 256, "remote": 256}
_CONCURRENT_ENDPOINT = 32  # the client itself has at most 16 calls under way


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    identity: changes with everything about it that changes answers. window: tokens of prompt and response.
    reasons: its responses may begin with reasoning (an endpoint does not tell, so it may).
    concurrent: questions under way at once; 0: batches in order.
    """

    name: str
    identity: str
    window: int
    tokenizer: Any
    reasons: bool
    open_engine: OpenEngine
    concurrent: int


def open_subject(request: EvalRequest, judge_config: EndpointConfig) -> tuple[Path, Subject, OpenAIChat | None]:
    """The output folder, the model or endpoint, and the judge's client."""
    server = endpoint_config(
        request.endpoint, request.endpoint_model, request.endpoint_key_env, request.budget_tokens, "endpoint"
    )
    if server.model is not None:
        if request.model is not None:
            raise ConfigError(
                "give --model DIR or --endpoint URL, not both (--tokenizer DIR counts an endpoint's tokens)."
            )
        name = server.model.replace("/", "_").replace("\\", "_")
        out = request.out or Path("outputs/eval") / name
        chat, judge = open_endpoints([server, judge_config], out / "state")
        assert chat is not None, "the endpoint is configured"
        return out, _endpoint_subject(request, name, f"{server.base_url} {server.model}", chat), judge
    if request.model is None:
        raise ConfigError("name what is evaluated: --model DIR, or --endpoint URL with --endpoint-model NAME.")
    folder = open_model_folder(request.model)
    out = request.out or Path("outputs/eval") / folder.name
    (judge,) = open_endpoints([judge_config], out / "state")
    return out, _folder_subject(request, folder), judge


def _endpoint_subject(request: EvalRequest, name: str, identity: str, chat: OpenAIChat) -> Subject:
    from stages.engines.endpoint_engine import EndpointTokenizer
    from stages.evaluation.asking import endpoint

    inner, counted = None, "characters"
    if request.tokenizer is not None:
        from stages.common.tokens import ChatTokenizer

        inner = ChatTokenizer(request.tokenizer)
        file = request.tokenizer / "tokenizer.json"  # decides where a context is cut
        counted = md5_of_file(file) if file.is_file() else str(request.tokenizer)
    tokenizer = EndpointTokenizer(inner)
    window = request.window or PAPER_WINDOW_TOKENS
    return Subject(
        name,
        f"{identity} {window} {counted}",
        window,
        tokenizer,
        True,
        endpoint(chat, tokenizer, window),
        _CONCURRENT_ENDPOINT,
    )


def _folder_subject(request: EvalRequest, folder: ModelFolder) -> Subject:
    from stages.common.tokens import ChatTokenizer
    from stages.engines.build import build_engine
    from stages.evaluation.asking import closing

    config = train_config(request.engine, request.dtype, request.threads)
    hand_over_remote_engine()
    window = min(request.window or folder.window_tokens, folder.window_tokens)
    tokenizer = ChatTokenizer(folder.path)
    return Subject(
        folder.name,
        f"{folder.identity} {window} {request.engine} {request.dtype} {request.threads}",
        window,
        tokenizer,
        tokenizer.opens_reasoning,
        closing(lambda: build_engine(folder.path, config, max_model_tokens=window)),
        _CONCURRENT[request.engine],
    )
