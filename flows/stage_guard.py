"""Ends a stage's process promptly: on SIGINT and SIGTERM, and when the process that asked for it is gone.

Python runs signal handlers between bytecodes of the main thread only, and a training step may sit in C for long. So the
handler raises `Stopped` when Python gets to it, and a thread that the kernel wakes at once ends the process if that has
not happened after a grace time. Checkpoints are written by the stages after every few steps; nothing is lost here.

`dvc repro` leaves its stage running when it is killed (measured), so a stage that DVC started watches it. The runner's
supervisor does the same from outside; this one also covers plain `dvc repro`.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Iterable

GRACE_SECONDS = 5.0
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ash", "ksh", "busybox"})
_PR_SET_PDEATHSIG = 1
_LOST = 128  # flag beside a signal's number: what its handler raised was dropped, send it again
_AGAIN_SECONDS = 0.02


class Stopped(BaseException):
    """Raised in the main thread by SIGINT and SIGTERM. Not an Exception, so nothing but cleanup catches it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


def end_on_signals(watched: Iterable[int] = (), grace_seconds: float = GRACE_SECONDS) -> None:
    """Turn SIGINT and SIGTERM into `Stopped`, and be terminated when one of the watched processes ends.

    Call once, in the main thread. If `Stopped` is not through after the grace time, the process ends anyway.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    armed = True  # one signal is enough to unwind; the grace time bounds the rest

    def stop(number: int, _frame: types.FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Stopped(number)

    def again_if_lost(lost: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a `__del__` or a callback from C, where a signal may well arrive."""
        nonlocal armed
        if isinstance(lost.exc_value, Stopped):
            armed = True
            os.write(write_end, bytes([_LOST | lost.exc_value.number]))  # raised here it would be lost as well
        else:
            report_unraisable(lost)

    report_unraisable, sys.unraisablehook = sys.unraisablehook, again_if_lost
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    guards = [guard for pid in watched if (guard := _open_process(pid)) is not None]
    thread = threading.Thread(target=_wait, args=(read_end, guards, grace_seconds), name="guard", daemon=True)
    thread.start()


def _wait(signals: int, guards: list[int], grace_seconds: float) -> None:
    """The thread: turns the end of a watched process into SIGTERM, and ends this process when the grace time is over."""
    poll = select.poll()
    for descriptor in (signals, *guards):
        poll.register(descriptor, select.POLLIN)
    deadline, exit_code = None, 0
    while True:
        ready = poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000)
        if deadline is not None and time.monotonic() >= deadline:
            os._exit(exit_code)
        for descriptor, _ in ready:
            if descriptor in guards:
                poll.unregister(descriptor)
                os.kill(os.getpid(), signal.SIGTERM)
                continue
            for number in os.read(signals, 64):
                if number & _LOST:
                    time.sleep(_AGAIN_SECONDS)
                    os.kill(os.getpid(), number & ~_LOST)
                elif deadline is None and number in (signal.SIGINT, signal.SIGTERM):
                    deadline, exit_code = time.monotonic() + grace_seconds, 128 + number


def _open_process(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has no such thing."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise Stopped(signal.SIGTERM) from None  # it ended before we could watch it
    except OSError:
        return None  # a kernel older than 5.3


def dvc_processes() -> list[int]:
    """The DVC process that started this stage, and the shell between them if there is one.

    Empty if DVC did not start it. Also asks the kernel for SIGTERM when the parent ends. Raises Stopped if DVC is gone
    already.
    """
    if "DVC_STAGE" not in os.environ:
        return []
    import psutil

    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            raise Stopped(signal.SIGTERM)
    chain = []
    try:
        process = psutil.Process(parent)
        chain.append(process.pid)
        if process.name() in _SHELLS:
            chain.append(process.ppid())
            process = psutil.Process(process.ppid())
        if not any("dvc" in word for word in process.cmdline()):
            if process.pid == 1:  # adopted by init: DVC died before we got here
                raise Stopped(signal.SIGTERM)
            return chain[:1]
    except psutil.Error:
        return chain[:1]
    return chain
