"""Limits of time and memory around the parsing of one file, which may be hostile.

Two walls for time: an alarm that interrupts Python code, and, in a worker process, a watchdog that ends the process if the alarm
was not heard (a library that stays in C); the executor then names the file. Memory: the process may not allocate beyond
MAX_WORKER_BYTES, so that a bomb gets a MemoryError here and the machine does not swap.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from stages.ingest.reasons import DropReason, UnusableError

MAX_WORKER_BYTES = 2 << 30
_GRACE_SECONDS = 15.0
_RING_AGAIN_SECONDS = 0.5
_WAIT_SECONDS = 0.01  # until a finalizer or a callback of the garbage collector has ended


class _TimeIsUp(BaseException):
    pass


def limit_memory() -> None:
    """Bound the memory of a worker process. Does nothing in the main process, nor where the system cannot."""
    if multiprocessing.parent_process() is None:
        return
    try:
        import resource
    except ImportError:  # not a Unix system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = MAX_WORKER_BYTES if hard == resource.RLIM_INFINITY else min(MAX_WORKER_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """What runs inside ends within `seconds`, or raises UnusableError (too_slow, out_of_memory, too_deep)."""
    try:
        with _alarm(seconds):
            yield
    except _TimeIsUp:
        raise UnusableError(
            DropReason.TOO_SLOW, f"reading it took more than {seconds:g} seconds (ingest.max_file_seconds)"
        ) from None
    except MemoryError:
        raise UnusableError(
            DropReason.OUT_OF_MEMORY, f"reading it takes more than {MAX_WORKER_BYTES >> 30} GiB of memory"
        ) from None
    except RecursionError:
        raise UnusableError(DropReason.TOO_DEEP, "nested too deeply to be read") from None


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield  # signals reach the main thread only
        return
    armed = True

    def ring(number: int, frame: FrameType | None) -> None:
        del number
        if armed and _is_in_collection(frame):
            signal.setitimer(signal.ITIMER_REAL, _WAIT_SECONDS, _RING_AGAIN_SECONDS)
        elif armed:
            raise _TimeIsUp

    started = time.monotonic()
    previous = signal.signal(signal.SIGALRM, ring)
    watchdog = multiprocessing.parent_process() is not None
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        if watchdog:
            faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=nowhere)
        # It rings again: an exception raised in a weak reference's callback is printed and lost.
        outer_left, outer_every = signal.setitimer(signal.ITIMER_REAL, seconds, _RING_AGAIN_SECONDS)
        try:
            yield
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            if outer_left:  # somebody else's timer goes on
                left = max(outer_left - (time.monotonic() - started), 0.001)
                signal.setitimer(signal.ITIMER_REAL, left, outer_every)
            if watchdog:
                faulthandler.cancel_dump_traceback_later()


def _is_in_collection(frame: FrameType | None) -> bool:
    """True inside a finalizer or a callback of the garbage collector: what is raised there is printed and lost.

    A parser that allocates much is often interrupted just there, since the alarm waits until Python code runs again.
    """
    callbacks = {getattr(getattr(callback, "__func__", callback), "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
