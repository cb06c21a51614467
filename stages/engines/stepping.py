"""A thread that steps a generating backend and lets new requests join while others run.

    coroutine A --submit--> |                    |
    coroutine B --submit--> | inbox -> add, step | -> future of A, future of B
    trainer     --call----> |                    |

No barrier per turn: a request joins the batch at the next step and is answered the moment its own tokens are complete.
Everything the backend does runs in this one thread, between steps, so it needs no locks. Every wait is bounded: if the
backend has not come back from one piece of work within `timeout_seconds`, or died, all who wait get an
EnvironmentFailureError that names what it was doing. A slow but living backend never runs into the limit.

Processes that share one model (tensor parallel) must take the same steps with the same requests. Each round they tell
each other their news (lockstep.py): requests of all are added in order of rank, and a call runs once all have asked.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stages.common.errors import EnvironmentFailureError, LongfuseError
from stages.common.rollouts import Completion, GenerationRequest

Answer = concurrent.futures.Future[list[Completion]]

# How often a waiter looks whether the backend is still alive.
_LOOK_SECONDS = 2.0
# How long a process without work leaves its peers' news unread.
_IDLE_SECONDS = 0.01


@dataclass(frozen=True)
class News:
    """What one process adds to a round. requests: by id; given_up: ids; call: phase of its next call."""

    requests: tuple[tuple[str, GenerationRequest], ...] = ()
    given_up: tuple[str, ...] = ()
    call: str | None = None
    closing: bool = False


class Peers(Protocol):
    """The processes that share a model."""

    rank: int

    def exchange(self, news: News) -> list[News]:
        """The news of all, by rank."""
        ...


class Backend(Protocol):
    """What the thread drives. All calls come from one thread. peers: None if this process has the model for itself."""

    peers: Peers | None

    def add(self, request_id: str, request: GenerationRequest) -> None:
        """Take a request into the batch. A LongfuseError refuses this request alone."""
        ...

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget requests that nobody waits for any more."""
        ...

    def step(self) -> list[tuple[str, list[Completion]]]:
        """One step for all; the requests that are complete now."""
        ...

    def describe(self, error: BaseException) -> str:
        """What to tell the user about an error of the backend, with the remedy if there is one."""
        ...


@dataclass
class _Call:
    """A piece of work for the thread."""

    phase: str
    work: Callable[[], Any]
    result: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)


class SteppingThread:
    """Runs `start()` and then the backend that it returns, in a thread of its own.

    name: of the engine, for messages. timeout_seconds: longest single piece of work (the start, one step, one sleep ...).

    Raises EnvironmentFailureError from every method once the backend is dead or hangs.
    """

    def __init__(self, name: str, start: Callable[[], Backend], timeout_seconds: float) -> None:
        self._name = name
        self.timeout_seconds = timeout_seconds
        self._news = threading.Condition()  # guards the next three
        self._calls: deque[_Call] = deque()
        self._inbox: deque[tuple[str, GenerationRequest, Answer]] = deque()
        self._closing = False
        self._answers: dict[str, Answer] = {}  # of this process's requests in the backend
        self._active: set[str] = set()  # requests in the backend, of all processes
        self._serial = 0
        self._failure: EnvironmentFailureError | None = None
        self._phase: str | None = None  # what the backend does now; None: nothing
        self._since = 0.0
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._enter("starting")
        self._thread = threading.Thread(target=self._run, args=(start,), name=f"{name}-engine", daemon=True)
        self._thread.start()
        self._wait(self._started)

    @property
    def running(self) -> int:
        """Requests of this process that are neither answered nor given up."""
        with self._news:
            answers = [*(answer for _, _, answer in self._inbox), *self._answers.values()]
        return sum(not answer.done() for answer in answers)

    def submit(self, request: GenerationRequest) -> Answer:
        """Queue a request; it joins the batch at the next step."""
        answer: Answer = concurrent.futures.Future()
        with self._news:
            self._check()
            self._serial += 1
            self._inbox.append((str(self._serial), request, answer))
            self._news.notify()
        return answer

    async def answer(self, request: GenerationRequest) -> list[Completion]:
        """Submit and wait without blocking the event loop. A cancelled wait takes the request out of the batch."""
        answer = self.submit(request)
        waiter = asyncio.wrap_future(answer)
        try:
            while not waiter.done():
                await asyncio.wait({waiter}, timeout=self._look_seconds)
                if not waiter.done():
                    self._check()
            return waiter.result()
        finally:
            waiter.cancel()  # also cancels `answer`; no effect on one that is done

    def wait_all(self, answers: Sequence[Answer]) -> list[list[Completion]]:
        """Wait for submitted requests, results in order."""
        try:
            return [self._wait(answer) for answer in answers]
        finally:
            for answer in answers:
                answer.cancel()

    def call(self, phase: str, work: Callable[[], Any]) -> Any:
        """Run `work` in the backend's thread between two steps and wait for its result. `phase` as in "going to sleep"."""
        call = _Call(phase, work)
        with self._news:
            self._check()
            self._calls.append(call)
            self._news.notify()
        return self._wait(call.result)

    def close(self) -> None:
        """End the thread; what is still running is given up. A thread that hangs is left behind (it is a daemon)."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(0.1 if self._failure is not None or self._overdue() else self.timeout_seconds)

    @property
    def _look_seconds(self) -> float:
        return min(_LOOK_SECONDS, self.timeout_seconds / 4)

    def _wait(self, future: concurrent.futures.Future[Any]) -> Any:
        while True:
            concurrent.futures.wait([future], timeout=self._look_seconds)
            if future.done():
                return future.result()
            self._check()

    def _overdue(self) -> bool:
        return self._phase is not None and time.monotonic() - self._since > self.timeout_seconds

    def _check(self) -> None:
        """Raise if the backend is dead, closed or hangs."""
        if self._failure is None and self._overdue():
            self._failure = EnvironmentFailureError(
                f"the {self._name} engine has not come back for {self.timeout_seconds:g} s while {self._phase}. "
                "Run the stage again, it continues from its last checkpoint; if the machine is just slow, "
                "raise train.engine.timeout_seconds."
            )
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise EnvironmentFailureError(f"the {self._name} engine is closed.")

    def _enter(self, phase: str | None) -> None:
        self._since = time.monotonic()
        self._phase = phase

    # From here on: the thread itself

    def _run(self, start: Callable[[], Backend]) -> None:
        backend: Backend | None = None
        try:
            backend = start()
            self._started.set_result(None)
            while self._round(backend):
                pass
        except Exception as error:  # noqa: BLE001  handed to everyone who waits
            self._die(backend, error)

    def _round(self, backend: Backend) -> bool:
        """Take in what is new, then one step. False: the end."""
        news = self._collect(backend.peers)
        everyone = [news]
        if backend.peers is not None:
            self._enter("waiting for the other processes of its model")
            everyone = backend.peers.exchange(news)
        if any(other.closing for other in everyone):
            return False
        if given_up := self._active & {name for other in everyone for name in other.given_up}:
            self._enter("aborting requests")
            backend.abort(sorted(given_up))
            self._active -= given_up
        for other in everyone:
            for request_id, request in other.requests:
                self._add(backend, request_id, request)
        if all(other.call is not None for other in everyone):
            self._call(backend)
        elif self._active:
            self._enter("generating")
            for request_id, completions in backend.step():
                self._active.discard(request_id)
                answer = self._answers.pop(request_id, None)
                if answer is not None and answer.set_running_or_notify_cancel():
                    answer.set_result(completions)
        self._enter(None)
        return True

    def _collect(self, peers: Peers | None) -> News:
        """Wait until there is something to do; then what is new in this process."""
        with self._news:
            while not (self._calls or self._inbox or self._active or self._closing):
                self._enter(None)
                self._news.wait(None if peers is None else _IDLE_SECONDS)
                if peers is not None:
                    break
            place = "" if peers is None else f"{peers.rank}-"
            requests = []
            for number, request, answer in self._inbox:
                if not answer.cancelled():
                    requests.append((place + number, request))
                    self._answers[place + number] = answer
            self._inbox.clear()
            given_up = tuple(name for name, answer in self._answers.items() if answer.cancelled())
            for name in given_up:
                del self._answers[name]
            return News(tuple(requests), given_up, self._calls[0].phase if self._calls else None, self._closing)

    def _add(self, backend: Backend, request_id: str, request: GenerationRequest) -> None:
        self._enter("adding a request")
        try:
            backend.add(request_id, request)
        except LongfuseError as error:
            _fail(self._answers.pop(request_id, None), error)
        else:
            self._active.add(request_id)

    def _call(self, backend: Backend) -> None:
        with self._news:
            call = self._calls.popleft()
        self._enter(call.phase)
        try:
            call.result.set_result(call.work())
        except LongfuseError as error:  # the caller's affair; the backend lives
            call.result.set_exception(error)
        except Exception as error:
            call.result.set_exception(self._dead(backend, error))
            raise

    def _dead(self, backend: Backend | None, error: Exception) -> LongfuseError:
        if isinstance(error, LongfuseError):
            return error
        said = f"{type(error).__name__}: {error}" if backend is None else backend.describe(error)
        failure = EnvironmentFailureError(
            f"the {self._name} engine died while {self._phase or 'idle'}: {said.rstrip(' .')}. "
            "Run the stage again, it continues from its last checkpoint."
        )
        failure.__cause__ = error
        return failure

    def _die(self, backend: Backend | None, error: Exception) -> None:
        failure = self._dead(backend, error)
        with self._news:
            if isinstance(failure, EnvironmentFailureError):
                self._failure = failure
            else:  # a refusal at the start: the caller gets it as it is
                self._failure = EnvironmentFailureError(f"the {self._name} engine is not running: {failure}")
            calls, inbox = list(self._calls), list(self._inbox)
            self._calls.clear()
            self._inbox.clear()
        if not self._started.done():
            self._started.set_exception(failure)
        for call in calls:
            call.result.set_exception(failure)
        for answer in [*self._answers.values(), *(answer for _, _, answer in inbox)]:
            _fail(answer, failure)
        self._answers.clear()


def _fail(answer: Answer | None, error: Exception) -> None:
    if answer is not None and answer.set_running_or_notify_cancel():
        answer.set_exception(error)
