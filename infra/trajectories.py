"""Trajectories that a stage recorded (stages/memory/record.py) as MLflow traces below the stage's run.

The same shape as `infra.tracing` gives to questions that are asked live: a root span, a span per section, one for the
answer. Here all of it is known at once, so the times of the spans are laid end to end, back from when it ended.

A judge's verdict that comes later is a record of its own (`verdict_record`), and becomes the trace's tags `judge` and
`score`; where it is known from the beginning, as in RL, `judge` is a tag and an attribute of the root span.

A key is sent once, over kills and resumed runs: what was sent stands in a file beside the spool, and ids follow from
stage and key, so that one that was sent by a process that died before it could say so is written over with the same.
MLflow's own way of making spans keeps errors to itself; the store's requests, which are used here, raise them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import Settings
from infra.tracing import safe_attributes, shortened

if TYPE_CHECKING:
    from mlflow.tracing.client import TracingClient

AT_A_TIME = 4  # traces per look at the spool: metrics of other stages wait behind them
LAST_SECONDS = 30.0  # for the rest, when the stage has ended
_PREVIEW = 1000  # characters that lists of traces show
_NS = 1_000_000_000
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Facts:
    """What all traces of a stage have in common."""

    name: str
    experiment: str
    run_id: str
    tags: Mapping[str, str]


class _Ids:
    """Ids of a trace and its spans, from a text that names it."""

    def __init__(self, name: str) -> None:
        self.number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16], "big") | 1
        self.trace = f"tr-{self.number:032x}"

    def span(self, number: int) -> bytes:
        return hashlib.sha256(f"{self.trace}/{number}".encode()).digest()[:8]


class TrajectorySender:
    """Sends the records of one stage. Used by the tracker's thread alone; `send` raises whatever MLflow raises.

    run_id: of the stage. tags: of every trace. fingerprint: makes a key of the stage one of the store. sent: the file of
    keys that were sent.
    """

    def __init__(
        self,
        settings: Settings,
        experiment: str,
        run_id: str,
        tags: Mapping[str, str],
        fingerprint: str,
        sent: Path,
    ) -> None:
        self._settings = settings
        self._client: TracingClient | None = None
        self._facts = _Facts(tags.get("stage.name", "trajectory"), experiment, run_id, dict(tags))
        self._fingerprint = fingerprint
        self._sent = sent
        self._known = _keys(sent)
        self._ended_ms: dict[str, int] = {}  # by key; with it a trace's id is known
        self._waiting: deque[Mapping[str, Any]] = deque()

    def take(self, record: Mapping[str, Any]) -> None:
        """Queue a record; one whose key was seen before, and one that is none, is passed over."""
        key = record.get("key")
        if not isinstance(key, str):
            return
        if "verdict" in record and key not in self._ended_ms:
            return  # on a trajectory that was not recorded
        if isinstance(record.get("ended_ms"), int):
            self._ended_ms.setdefault(key, record["ended_ms"])
        if (name := _sent_name(record)) not in self._known:
            self._known.add(name)
            self._waiting.append(record)

    def send(self, most: int = AT_A_TIME) -> None:
        """Send so many of those that wait. One that fails goes to the end of the queue, and its error is raised."""
        for _ in range(min(most, len(self._waiting))):
            record = self._waiting.popleft()
            try:
                self._send(record)
            except Exception:
                self._waiting.append(record)
                raise

    def finish(self) -> None:
        """Send the rest, each tried once more, with a bound in time; what could not be sent is told in one warning."""
        deadline = time.monotonic() + LAST_SECONDS
        why = "it took too long"
        for _ in range(len(self._waiting)):
            if time.monotonic() >= deadline:
                break
            try:
                self.send(1)
            except Exception as error:  # sqlalchemy, requests and mlflow errors have no common root  # noqa: BLE001
                why = str(error)
        if self._waiting:
            logger.warning(
                "MLflow Traces: %d trajectories of %s could not be sent (%s). They stay in %s.",
                len(self._waiting),
                self._facts.name,
                why.splitlines()[0][:300] if why else "no reason given",
                self._sent.parent,
            )

    def _send(self, record: Mapping[str, Any]) -> None:
        if self._client is None:
            from mlflow.tracing.client import TracingClient

            self._client = TracingClient(self._settings.mlflow_tracking_uri)
        ids = _Ids(f"{self._fingerprint}/{record['key']}/{self._ended_ms[record['key']]}")
        if "verdict" in record:
            for name, value in record["verdict"].items():
                self._client.set_trace_tag(ids.trace, name, str(value))
        else:
            _write(self._client, record, ids, self._facts)
        self._note(_sent_name(record))

    def _note(self, key: str) -> None:
        with self._sent.open("a", encoding="utf-8") as file:
            file.write(json.dumps(key) + "\n")


def _sent_name(record: Mapping[str, Any]) -> str:
    """What stands in the file of sent keys; a verdict is apart from its trajectory."""
    return f"{record['key']}#verdict" if "verdict" in record else str(record["key"])


def _keys(path: Path) -> set[str]:
    """The keys in a file; half a line of a killed process is passed over."""
    keys = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            keys.add(str(json.loads(line)))
        except ValueError:
            continue
    return keys


def _write(client: TracingClient, record: Mapping[str, Any], ids: _Ids, facts: _Facts) -> None:
    """One record as a trace: its own data, then all spans in one request. The same ids write the same again."""
    from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState

    end_ns = int(record["ended_ms"]) * 1_000_000
    spans = list(_spans(record, facts.name, end_ns))
    start_ns = spans[0].start_ns
    client.start_trace(
        TraceInfo(
            trace_id=ids.trace,
            trace_location=TraceLocation.from_experiment_id(facts.experiment),
            request_time=start_ns // 1_000_000,
            execution_duration=(end_ns - start_ns) // 1_000_000,
            state=TraceState.OK,
            request_preview=_preview(record["question"]),
            response_preview=_preview(record["answer"]),
            trace_metadata={"mlflow.sourceRun": facts.run_id, "mlflow.trace_schema.version": "3"},
            tags={**facts.tags, **_judged(record), "mlflow.traceName": facts.name},
        )
    )
    # Last: MLflow remembers for the life of a process that a server which is down right here takes no spans.
    client.log_spans(facts.experiment, [Span.from_dict(span.as_dict(ids)) for span in spans])


def _judged(record: Mapping[str, Any]) -> dict[str, str]:
    """The judge's verdict, if the record has one."""
    verdict = record["attributes"].get("judge")
    return {} if verdict is None else {"judge": str(verdict)}


@dataclass(frozen=True)
class _Span:
    """A span before it is MLflow's. number 0: the root."""

    number: int
    name: str
    kind: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    attributes: Mapping[str, Any]
    start_ns: int
    end_ns: int

    def as_dict(self, ids: _Ids) -> dict[str, Any]:
        """In the form of MLflow's Span.from_dict: every attribute is JSON."""
        attributes = {
            "mlflow.traceRequestId": ids.trace,
            "mlflow.spanType": self.kind,
            "mlflow.spanInputs": self.inputs,
            "mlflow.spanOutputs": self.outputs,
            **self.attributes,
        }
        return {
            "trace_id": _base64(ids.number.to_bytes(16, "big")),
            "span_id": _base64(ids.span(self.number)),
            "parent_span_id": _base64(ids.span(0)) if self.number else None,
            "name": self.name,
            "start_time_unix_nano": self.start_ns,
            "end_time_unix_nano": self.end_ns,
            "events": [],
            "status": {"code": "STATUS_CODE_OK", "message": ""},  # an unparsed turn is no error of the run
            "attributes": {key: json.dumps(value) for key, value in attributes.items()},
            "links": [],
        }


def _spans(record: Mapping[str, Any], name: str, end_ns: int) -> Iterator[_Span]:
    """The root, the turns, the answer."""
    turns = record["turns"]
    start_ns = end_ns - int(record["answer_seconds"] * _NS) - sum(int(turn["seconds"] * _NS) for turn in turns)
    answer = {"answer": shortened(record["answer"])}
    attributes = safe_attributes(record["attributes"])
    yield _Span(0, name, "AGENT", {"question": shortened(record["question"])}, answer, attributes, start_ns, end_ns)
    plan = ""
    for turn in turns:
        turn_end_ns = start_ns + int(turn["seconds"] * _NS)
        yield _Span(
            turn["number"],
            f"section {turn['number']}",
            "LLM",
            {"memory": shortened(turn["memory_before"]), "plan": shortened(plan)},
            {"memory": shortened(turn["memory"]), "plan": shortened(turn["plan"])},
            {
                "section": turn["number"],
                "chunk_end_token": turn["chunk_start_token"] + turn["chunk_tokens"],
                "chunk_start_character": turn["chunk_start"],
                "chunk_end_character": turn["chunk_end"],
                **{name: turn[name] for name in _PLAIN},
            },
            start_ns,
            turn_end_ns,
        )
        plan, start_ns = turn["plan"], turn_end_ns
    last = turns[-1]["number"] + 1 if turns else 1
    yield _Span(last, "answer", "LLM", {}, answer, {}, start_ns, end_ns)


_PLAIN = ("chunk_start_token", "prompt_tokens", "response_tokens", "seconds", "parsed", "truncated", "memory_cut")


def _preview(text: str) -> str:
    return shortened(text.replace("\x00", ""))[:_PREVIEW]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
