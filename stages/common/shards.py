"""Map steps over shards: one interface, two ways to run it on this machine.

    executor = ProcessExecutor()                        # or SerialExecutor(), or a cluster engine with the same method
    for result in executor.map(parse, shards): ...      # in the order of the shards

A map step is a pure function of one shard: it must be importable by name (a module-level function, or functools.partial of one),
and shards and results must be small enough to send (give paths and ranges, not texts, see file_ranges.py). Results come in the
order of the shards, so what is made from them does not depend on the number of workers. Only a few shards are in flight, so
memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_sentinel
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from stages.common.errors import EnvironmentFailureError

S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")


class ShardExecutor(Protocol):
    """Where a map step runs."""

    def map(
        self, function: Callable[[S], R], shards: Iterable[S], failed: Callable[[S, str], R] | None = None
    ) -> Iterator[R]:
        """`function` of each shard, in the order of `shards`, which is read as it is needed.

        An exception in `function` is raised here. failed(shard, why) stands in for the result of a shard on which a worker
        process dies, also when it has the machine for itself; without it that is an EnvironmentFailureError.
        """
        ...


class SerialExecutor:
    """One shard after the other in this process; nothing is isolated, so `failed` is never called."""

    def map(
        self, function: Callable[[S], R], shards: Iterable[S], failed: Callable[[S, str], R] | None = None
    ) -> Iterator[R]:
        del failed
        return map(function, shards)


@dataclass
class _Task(Generic[S, R]):
    number: int
    shard: S
    future: Future[R]


class ProcessExecutor:
    """Worker processes of this machine.

    workers: processes at once; usable cores if None. in_flight: shards handed out or finished but not yet taken; twice the
    workers if None.

    A worker that dies (killed, out of memory, a crash in a library) takes the others down with it; their shards are tried again
    one by one, and only one that dies alone is given up. When the consumer stops, by an error or Ctrl-C, the workers are killed;
    when this process is killed, they end by themselves.
    """

    def __init__(self, workers: int | None = None, in_flight: int | None = None) -> None:
        self.workers = workers or usable_cores()
        self._in_flight = max(in_flight or 2 * self.workers, self.workers)

    def map(
        self, function: Callable[[S], R], shards: Iterable[S], failed: Callable[[S, str], R] | None = None
    ) -> Iterator[R]:
        source = enumerate(shards)
        waiting: deque[_Task[S, R]] = deque()
        exhausted = False
        while waiting or not exhausted:
            with _pool(self.workers, function) as pool:
                while waiting or not exhausted:
                    while len(waiting) < self._in_flight and not exhausted:
                        item = next(source, None)
                        exhausted = item is None
                        if item is not None:
                            waiting.append(_Task(*item, _submit(pool, item[1])))
                    if not waiting:
                        break
                    task = waiting[0]
                    try:
                        result = task.future.result()
                    except BrokenProcessPool:
                        break
                    waiting.popleft()
                    yield result
            if waiting:
                _try_alone(function, waiting, failed)


def _try_alone(
    function: Callable[[S], R], waiting: Iterable[_Task[S, R]], failed: Callable[[S, str], R] | None
) -> None:
    """A worker died: every unfinished shard again, each in a process of its own with the machine for itself."""
    for task in waiting:
        if task.future.done() and not isinstance(task.future.exception(), BrokenProcessPool):
            continue
        with _pool(1, function) as pool:
            task.future = _submit(pool, task.shard)
            wait([task.future])
        if not isinstance(task.future.exception(), BrokenProcessPool):
            continue
        why = "a worker process died twice, perhaps killed for want of memory"
        outcome: Future[R] = Future()
        if failed is not None:
            outcome.set_result(failed(task.shard, why))
        else:
            remedy = "Look at the system's log; give the machine more memory, or take that document out."
            outcome.set_exception(
                EnvironmentFailureError(f"{why}, on shard {task.number} ({_shown(task.shard)}). {remedy}")
            )
        task.future = outcome


def _shown(shard: object) -> str:
    text = repr(shard)
    return text if len(text) <= 200 else f"{text[:200]}..."


@contextlib.contextmanager
def _pool(workers: int, function: Callable[..., Any]) -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers know the function; none of them is left when the block ends."""
    pool = ProcessPoolExecutor(
        workers,
        # Not fork: this process may have threads, and a forked child inherits their locks.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(function,),
    )
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # Python 3.14 has kill_workers() for this
            process.kill()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _submit(pool: ProcessPoolExecutor, shard: S) -> Future[Any]:
    try:
        return pool.submit(_run, shard)
    except BrokenProcessPool as error:
        future: Future[Any] = Future()
        future.set_exception(error)
        return future


# In a worker process only: the function of this pool's map, set once when the worker starts.
_function: Callable[..., Any] | None = None


def _start_worker(function: Callable[..., Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_sentinel([parent.sentinel])
    os._exit(1)


def _run(shard: Any) -> Any:
    assert _function is not None
    return _function(shard)


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its control group's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def groups_by_weight(items: Iterable[T], weight: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Consecutive items in groups of at most `limit` in weight; a heavier item is a group of its own.

    Shards must not depend on the number of workers: cut by this, not into as many parts as there are cores.
    """
    group: list[T] = []
    total = 0
    for item in items:
        heavy = weight(item)
        if group and total + heavy > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += heavy
    if group:
        yield group
