"""The stepping thread with a small backend: joining a running batch, cancelling, dying, hanging, several processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.common.errors import EnvironmentFailureError, InputError
from stages.common.rollouts import Completion, GenerationRequest
from stages.engines.lockstep import decode, encode
from stages.engines.stepping import News, Peers, SteppingThread

OPEN = threading.Event()
OPEN.set()


class Countdown:
    """A backend: a request takes `max_tokens` steps, its answer is its prompt's last id, once per step.

    gate: a step waits until it is open. steps: ids in the batch, per step.
    """

    def __init__(self, peers: Peers | None = None, gate: threading.Event = OPEN) -> None:
        self.peers = peers
        self.steps: list[list[str]] = []
        self.aborted: list[str] = []
        self.failure: Exception | None = None
        self._gate = gate
        self._left: dict[str, tuple[GenerationRequest, int]] = {}

    def add(self, request_id: str, request: GenerationRequest) -> None:
        if request.prompt_ids == (0,):
            raise InputError("a prompt of zero is refused.")
        self._left[request_id] = (request, request.max_tokens)

    def abort(self, request_ids: Sequence[str]) -> None:
        self.aborted += request_ids
        for request_id in request_ids:
            del self._left[request_id]

    def step(self) -> list[tuple[str, list[Completion]]]:
        assert self._gate.wait(20)
        if self.failure is not None:
            raise self.failure
        self.steps.append(sorted(self._left))
        done = [name for name, (_, left) in self._left.items() if left == 1]
        self._left = {name: (request, left - 1) for name, (request, left) in self._left.items()}
        return [(name, self._answer(self._left.pop(name)[0])) for name in done]

    def _answer(self, request: GenerationRequest) -> list[Completion]:
        ids = (request.prompt_ids[-1],) * request.max_tokens
        return [Completion(ids, (0.0,) * len(ids), "length")] * request.n

    def describe(self, error: BaseException) -> str:
        return f"it broke ({error})."


def _request(last: int, tokens: int = 1, n: int = 1) -> GenerationRequest:
    return GenerationRequest(prompt_ids=(last,), max_tokens=tokens, temperature=1.0, n=n)


def _ids(answers: Sequence[Completion]) -> list[int]:
    return [answer.token_ids[0] for answer in answers]


@pytest.fixture
def make() -> object:
    """Threads that are closed after the test."""
    threads: list[SteppingThread] = []

    def build(start: Callable[[], Countdown], timeout_seconds: float = 10.0) -> SteppingThread:
        threads.append(SteppingThread("test", start, timeout_seconds))
        return threads[-1]

    yield build
    for thread in threads:
        thread.close()


def test_answers_come_back_in_order(make):
    thread = make(Countdown)
    answers = thread.wait_all([thread.submit(_request(last, tokens=9 - last)) for last in range(1, 8)])
    assert [_ids(answer)[0] for answer in answers] == list(range(1, 8))


def test_a_request_joins_a_running_batch_and_is_answered_before_the_others(make):
    gate = threading.Event()
    backend = Countdown(gate=gate)
    thread = make(lambda: backend)
    order = []

    async def ask(last: int, tokens: int) -> None:
        assert _ids(await thread.answer(_request(last, tokens))) == [last]
        order.append(last)

    async def all_of_them() -> None:
        long = asyncio.create_task(ask(1, 6))
        while thread.running < 1:
            await asyncio.sleep(0)
        short = asyncio.create_task(ask(2, 2))
        while thread.running < 2:
            await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(long, short)

    asyncio.run(all_of_them())
    assert order == [2, 1]
    assert ["1", "2"] in backend.steps


def test_a_group_is_one_request(make):
    backend = Countdown()
    assert len(make(lambda: backend).submit(_request(5, tokens=3, n=4)).result(5)) == 4
    assert backend.steps == [["1"]] * 3


def test_a_refused_request_fails_alone(make):
    thread = make(Countdown)
    bad, good = thread.submit(_request(0)), thread.submit(_request(3))
    with pytest.raises(InputError, match="zero is refused"):
        bad.result(5)
    assert _ids(good.result(5)) == [3]


def test_a_cancelled_request_is_taken_out_of_the_batch(make):
    gate = threading.Event()
    backend = Countdown(gate=gate)
    thread = make(lambda: backend)

    async def give_up() -> None:
        task = asyncio.create_task(thread.answer(_request(1, tokens=1000)))
        while thread.running < 1:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert thread.running == 0
    gate.set()
    thread.call("looking", lambda: None)
    assert backend.aborted in ([], ["1"])  # [] if it was given up before it was added
    assert thread.submit(_request(2)).result(5)
    assert len(backend.steps) < 1000


def test_a_call_runs_between_steps_in_the_backends_thread_and_hands_its_error_back(make):
    thread = make(Countdown)
    assert thread.call("looking", lambda: threading.current_thread().name) == "test-engine"

    def refuse() -> None:
        raise InputError("not these weights.")

    with pytest.raises(InputError, match="not these weights"):
        thread.call("loading", refuse)
    assert thread.call("looking", lambda: 7) == 7


def test_a_dead_backend_is_named_with_its_phase_to_all_who_wait_and_to_all_who_come(make):
    gate = threading.Event()
    backend = Countdown(gate=gate)
    thread = make(lambda: backend)
    waiting = [thread.submit(_request(last)) for last in (1, 2)]
    backend.failure = RuntimeError("card on fire")
    gate.set()
    for answer in waiting:
        with pytest.raises(EnvironmentFailureError, match=r"died while generating: it broke \(card on fire\)"):
            answer.result(5)
    with pytest.raises(EnvironmentFailureError, match="died while generating"):
        thread.submit(_request(3))


def test_a_call_that_dies_takes_the_engine_with_it(make):
    thread = make(Countdown)
    with pytest.raises(EnvironmentFailureError, match="died while waking up: it broke"):
        thread.call("waking up", lambda: 1 / 0)
    with pytest.raises(EnvironmentFailureError, match="died while waking up"):
        thread.call("looking", lambda: None)


def test_a_start_that_fails_says_why():
    def refuse() -> Countdown:
        raise InputError("no such model.")

    def break_down() -> Countdown:
        raise OSError("no driver")

    with pytest.raises(InputError, match="no such model"):
        SteppingThread("test", refuse, 5)
    with pytest.raises(EnvironmentFailureError, match="died while starting: OSError: no driver"):
        SteppingThread("test", break_down, 5)


@pytest.mark.parametrize("phase", ["starting", "generating", "going to sleep"])
def test_a_hang_ends_in_bounded_time_and_names_the_phase(phase):
    gate = threading.Event()
    started = time.monotonic()
    threads = []

    def hang() -> Countdown:
        gate.wait(20)
        return Countdown()

    def ask() -> None:
        if phase == "starting":
            SteppingThread("test", hang, 0.2)
        threads.append(SteppingThread("test", lambda: Countdown(gate=gate), 0.2))
        if phase == "generating":
            threads[0].wait_all([threads[0].submit(_request(1))])
        threads[0].call("going to sleep", lambda: gate.wait(20))

    with pytest.raises(EnvironmentFailureError, match=f"not come back for 0.2 s while {phase}"):
        ask()
    assert time.monotonic() - started < 15
    gate.set()
    for thread in threads:
        thread.close()


def test_a_long_wait_for_a_working_backend_is_no_hang(make):
    backend = Countdown()
    real = backend.step
    backend.step = lambda: (OPEN.wait(0), threading.Event().wait(0.01), real())[2]
    thread = make(lambda: backend, timeout_seconds=0.2)
    assert thread.wait_all([thread.submit(_request(1, tokens=40))])  # twice the limit, in 40 steps


def test_nothing_is_taken_after_close():
    thread = SteppingThread("test", Countdown, 5)
    thread.close()
    with pytest.raises(EnvironmentFailureError, match="closed"):
        thread.submit(_request(1))


class Table:
    """Peers of one process: two threads that lay their news on the same table."""

    def __init__(self, rank: int, seats: list[News], barrier: threading.Barrier) -> None:
        self.rank = rank
        self._seats = seats
        self._barrier = barrier

    def exchange(self, news: News) -> list[News]:
        self._seats[self.rank] = decode(encode(news)) if news != News() else news
        self._barrier.wait(10)
        told = list(self._seats)
        self._barrier.wait(10)
        return told


def test_processes_that_share_a_model_take_the_same_steps_and_calls_wait_for_both():
    seats, barrier = [News(), News()], threading.Barrier(2)
    backends = [Countdown(Table(rank, seats, barrier)) for rank in range(2)]
    calls: list[tuple[int, int]] = []

    def work(rank: int) -> list[int]:
        thread = SteppingThread("test", lambda: backends[rank], 10)
        requests = [_request(10 * rank + i, tokens=1 + i) for i in range(1, 4 + 5 * rank)]
        answers = thread.wait_all([thread.submit(request) for request in requests])
        thread.call("sleeping", lambda: calls.append((rank, len(backends[rank].steps))))
        thread.close()
        return [_ids(answer)[0] for answer in answers]

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(work, range(2)))
    assert told == [[1, 2, 3], [11, 12, 13, 14, 15, 16, 17, 18]]
    assert backends[0].steps == backends[1].steps
    assert len({steps for _, steps in calls}) == 1  # both slept after the same step
    assert sorted(rank for rank, _ in calls) == [0, 1]


def test_news_travel_as_json_and_no_news_as_nothing():
    request = GenerationRequest(
        prompt_ids=(1, 2), n=3, max_tokens=4, temperature=0.7, top_p=0.95, seed=2**62 + 1, stop=("</s>", "ä")
    )
    news = News((("1-7", request),), ("1-3",), "going to sleep", True)
    assert decode(encode(news)) == news
    assert encode(News()) == b""
    assert decode(b"") == News()
