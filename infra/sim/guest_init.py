"""The first process of a simulated instance: what a kernel and systemd do for a real one.

    python -P guest_init.py HOST.json        as pid 1 of a private pid and mount namespace

It mounts the instance's disk, puts the shutdown shim over the real programs (absolute paths are caught too), makes the
environment read-only, runs the user data as cloud-init does, and then idles until somebody says `shutdown`. Timers of
`shutdown -h +N` live here, so that they go off whatever became of the process that set them. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
SHUTDOWN_PROGRAMS = ("/sbin/shutdown", "/usr/sbin/shutdown", "/sbin/poweroff", "/usr/sbin/poweroff", "/sbin/halt")


def mount(source: Path | str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """The system call of that name. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(str(source).encode(), str(target).encode(), kind.encode() or None, flags, data.encode() or None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def prepare(host: dict[str, Any]) -> None:
    """Mounts of this instance; nobody else sees them."""
    disk = Path(host["disk"])
    if host["disk_mb"]:
        mount("tmpfs", disk, "tmpfs", 0, f"size={host['disk_mb']}m,mode=755")
    for folder in ("home", "tmp", "work"):
        (disk / folder).mkdir(exist_ok=True)
    shim = Path(host["shims"]) / "shutdown"
    for program in {os.path.realpath(path) for path in SHUTDOWN_PROGRAMS if Path(path).exists()}:
        mount(shim, Path(program), flags=MS_BIND)
    for folder in host["read_only"]:
        mount(folder, Path(folder), flags=MS_BIND)
        mount("none", Path(folder), flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
    for target, source in host["files"].items():  # for example /proc/vmstat, where an agent looks for OOM kills
        mount(source, Path(target), flags=MS_BIND)


def say(text: str) -> None:
    """A line on the console."""
    sys.stdout.write(f"[simulator] {text}\n")
    sys.stdout.flush()


class Init:
    """Reaps, keeps the shutdown timer, powers off."""

    def __init__(self, host: dict[str, Any]) -> None:
        self.host = host
        self.due: float | None = None
        self.power = os.open(host["power"], os.O_RDWR | os.O_NONBLOCK)
        self.left = b""

    def run(self) -> None:
        """Until the power is off."""
        while True:
            timeout = 0.5 if self.due is None else min(0.5, max(0.0, self.due - time.monotonic()))
            ready, _, _ = select.select([self.power], [], [], timeout)
            if ready:
                self.listen()
            if self.due is not None and time.monotonic() >= self.due:
                self.power_off()
            reap()

    def listen(self) -> None:
        """Words of the shim, one a line: `+MINUTES`, `now`, `cancel`. A later one replaces the timer, as systemd's does."""
        *lines, self.left = (self.left + os.read(self.power, 4096)).split(b"\n")
        for line in lines:
            word = line.decode("utf-8", "replace").strip()
            if word == "cancel":
                self.due = None
            elif word == "now":
                self.due = time.monotonic()
            else:
                with contextlib.suppress(ValueError):
                    self.due = time.monotonic() + float(word.removeprefix("+")) * self.host["minute_seconds"]
            say(f"shutdown {word}")

    def power_off(self) -> None:
        """SIGTERM to everything, a moment, and off; the kernel kills what is left in the namespace."""
        say("power off")
        Path(self.host["powered_off"]).touch()
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGTERM)
            deadline = time.monotonic() + self.host["power_off_seconds"]
            while time.monotonic() < deadline and reap():
                time.sleep(0.05)
        os._exit(0)


def reap() -> bool:
    """Bury the dead; True if somebody lives."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main(path: Path) -> None:
    """Boot; never returns."""
    host = json.loads(path.read_text(encoding="utf-8"))
    prepare(host)
    init = Init(host)
    user_data = Path(host["user_data"])
    if user_data.stat().st_size:
        user_data.chmod(0o755)
        subprocess.Popen(
            [str(user_data)],
            cwd="/",
            env=host["environment"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    init.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
