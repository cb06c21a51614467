"""A small process between us and a command: nothing that the command started outlives us, however we die.

    python -P supervise.py lifeline -- COMMAND...      until standard input ends (our end of the pipe died with us);
                                                       a byte on it means: kill at once
    python -P supervise.py holders FILE -- COMMAND...  until no process holds a shared lock on FILE

It leads a session of its own, is the subreaper of everything below it, and passes the command's exit status on. It buries
what it kills: DVC takes a zombie for a live process and would call its files busy. Killed itself, it takes the command
along (parent-death signal), and whoever waits for it sweeps the process group.
Standard library and psutil only; started by path, so that it works in any folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
INTERRUPT_SECONDS = 1.0  # lifeline lost: time to write a checkpoint before the kill
TERMINATE_SECONDS = 5.0  # no holder left: time for a server to close its database
POLL_SECONDS = 0.25
# DVC dies of SIGTERM at once, its stage may need a moment; whoever sent the signal kills earlier if he likes.
ORPHAN_SECONDS = {-signal.SIGTERM: 10.0, -signal.SIGKILL: 1.0}


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; does nothing where the system has no prctl."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends. Linux only."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(137)


def kill_descendants() -> None:
    """Kill every process below this one, until none is left."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=0.2)


def stop(command: subprocess.Popen[bytes], first: signal.Signals | None, grace_seconds: float) -> None:
    """Signal the group, wait, then kill what is left, and end this process."""
    try:
        if first is not None:
            os.killpg(os.getpgid(0), first)  # we handle it, see main
        deadline = time.monotonic() + grace_seconds
        while command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        kill_descendants()
        os._exit(137)


def wait_for_lifeline(command: subprocess.Popen[bytes]) -> None:
    """Read standard input: its end stops everything with a moment to save, a byte kills."""
    if os.read(0, 1):
        stop(command, None, 0.0)
    stop(command, signal.SIGINT, INTERRUPT_SECONDS)


def wait_for_holders(command: subprocess.Popen[bytes], path: Path) -> None:
    """Stop everything when an exclusive lock on `path` can be had. The lock is kept until this process ends."""
    with path.open("a") as file:
        while True:
            time.sleep(POLL_SECONDS)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            stop(command, signal.SIGTERM, TERMINATE_SECONDS)


def main(arguments: list[str]) -> int:
    """Run the command. Returns its exit status (128 + signal if a signal ended it)."""
    at = arguments.index("--")
    mode, words = arguments[:at], arguments[at + 1 :]
    # Handlers, not SIG_IGN: an ignored signal would be inherited by the command. The group's signals are for it, not us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    own_pid = os.getpid()

    def before_exec() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background shell job starts with SIGINT ignored
        die_with_parent(own_pid)

    command = subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=before_exec)  # one thread yet, so it is safe
    if mode[0] == "lifeline":
        watcher = threading.Thread(target=wait_for_lifeline, args=(command,), daemon=True)
    else:
        watcher = threading.Thread(target=wait_for_holders, args=(command, Path(mode[1])), daemon=True)
    watcher.start()
    status = command.wait()
    if status in ORPHAN_SECONDS:
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=ORPHAN_SECONDS[status])
    kill_descendants()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
