"""An LLM judges answers in the background: do two short answers mean the same? (recipe section 3)

The judge works in a thread of its own: engines block their event loop while they generate, and answers that are
finished are to be judged meanwhile. Whatever goes wrong is a counted failure, and the rule's score stands; a call that
failed is remembered in `state_dir`, so that a resumed run scores the same answers the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeVar

from stages.common.chat import ChatFailedError
from stages.common.chat_access import open_chat
from stages.common.chat_client import OpenAIChat, RetryPolicy
from stages.common.config import EndpointConfig
from stages.rewards.hybrid import HybridReward
from stages.rewards.judge_prompt import same_answer

Verdict = Literal["yes", "no", "failed"]
T = TypeVar("T")

_RETRIES = RetryPolicy(attempts=3, first_wait_seconds=0.5, longest_wait_seconds=10.0)


def build_judge(endpoint: EndpointConfig, state_dir: Path) -> LlmJudge | None:
    """The judge of an RL stage, if one is configured. ConfigError without its key."""
    return LlmJudge(endpoint, state_dir / "judge") if endpoint.model is not None else None


def build_reward(endpoint: EndpointConfig, state_dir: Path) -> HybridReward:
    """The reward of an RL stage: with a judge if one is configured. Close it at the end. ConfigError without its key."""
    return HybridReward(build_judge(endpoint, state_dir))


class LlmJudge:
    """Judges in the background: `submit` returns at once, the future holds "yes", "no" or "failed".

    An EndpointError (a wrong key, an unknown model) comes out of the future and should end the stage.
    """

    def __init__(self, endpoint: EndpointConfig, state_dir: Path) -> None:
        chat = open_chat(endpoint, state_dir, keep_account=True, retry=_RETRIES, total_seconds=endpoint.timeout_seconds)
        assert chat is not None, "an LlmJudge needs a configured endpoint"
        self._chat: OpenAIChat = chat
        self._failures = _FailureLog(state_dir / "judge_failures.txt")
        self._seen = _Counts()
        self._running: dict[str, asyncio.Future[Verdict]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        self._run(self._chat.__aenter__()).result()

    def submit(self, question: str, gold: str, prediction: str) -> Future[Verdict]:
        """Begin to judge an answer; from any thread."""
        return self._run(self._judge(question, gold, prediction))

    def ask(self, work: Callable[[OpenAIChat], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns, done with this client: its budget, its kept replies. Blocks; from any thread but its own."""
        answer: Future[T] = self._run(work(self._chat))
        return answer.result()

    async def _judge(self, question: str, gold: str, prediction: str) -> Verdict:
        key = hashlib.sha256("\x1f".join((question, gold, prediction)).encode("utf-8", "replace")).hexdigest()
        running = self._running.get(key)  # a group often holds the same answer several times
        if running is None:
            running = self._running[key] = asyncio.ensure_future(self._ask(key, question, gold, prediction))
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(running)

    async def _ask(self, key: str, question: str, gold: str, prediction: str) -> Verdict:
        if key in self._failures:
            return "failed"
        try:
            same = await same_answer(self._chat, question, gold, prediction)
        except ChatFailedError:
            self._failures.add(key)
            return "failed"
        return "yes" if same else "no"

    def take_metrics(self) -> dict[str, float]:
        """What happened since the last call: judge/calls, cache_hits, timeouts, latency_p95_s. They differ between runs."""
        ledger, seen = self._chat.ledger, self._seen
        seconds = sorted(ledger.seconds[seen.seconds :])
        values = {
            "judge/calls": float(ledger.calls - seen.calls),
            "judge/cache_hits": float(ledger.cache_hits - seen.cache_hits),
            "judge/timeouts": float(ledger.failures["timeout"] - seen.timeouts),
        }
        if seconds:
            values["judge/latency_p95_s"] = seconds[max(0, math.ceil(0.95 * len(seconds)) - 1)]
        self._seen = _Counts(ledger.calls, ledger.cache_hits, ledger.failures["timeout"], seen.seconds + len(seconds))
        return values

    @property
    def failures(self) -> Counter[str]:
        """Failed calls by reason."""
        return Counter({str(reason): count for reason, count in self._chat.ledger.failures.items()})

    def close(self) -> None:
        """Give up what is under way and end the thread."""
        if not self._loop.is_closed():
            self._run(_cancel_others()).result()
            self._run(self._chat.__aexit__(None, None, None)).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class _Counts:
    """The ledger as it was last reported."""

    def __init__(self, calls: int = 0, cache_hits: int = 0, timeouts: int = 0, seconds: int = 0) -> None:
        self.calls = calls
        self.cache_hits = cache_hits
        self.timeouts = timeouts
        self.seconds = seconds


class _FailureLog:
    """Answers whose judging failed in this run; one hash per line, appended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = set(path.read_text(encoding="ascii", errors="replace").split()) if path.is_file() else set()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        self._keys.add(key)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"\n{key}\n")


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
