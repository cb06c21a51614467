"""The Prefect and MLflow servers of this working tree: started on loopback when needed, stopped when nobody holds them.

Who needs a server holds a shared lock on `<folder>/holders.lock`; the server's supervisor stops it once no process does.
The lock is the operating system's, so a killed holder lets go as well, and `longfuse ui` keeps a server that
`longfuse run` started. Databases lie under `.state/`, logs in `.state/logs/`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

import infra.supervise
from infra.errors import InfraError
from infra.settings import Settings, child_environment, prefect_environment

HEALTH_SECONDS = 90.0  # a new database on a busy two-core machine took 15
HOLD_SECONDS = 20.0  # a supervisor that is just stopping a server keeps us waiting
LOOPBACK = "127.0.0.1"
MAX_REVIVALS = 5
MAX_MOVES = 3  # to another port, at the start
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How to start a server. `arguments` come after the interpreter, with the port appended as `--port N`."""

    name: str
    folder: Path
    log: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    health_path: str
    preferred_port: int


def prefect_spec(settings: Settings) -> ServerSpec:
    """The Prefect server with its database under `.state/prefect`."""
    environment = child_environment(settings)
    environment.pop("PREFECT_API_URL", None)
    return ServerSpec(
        name="Prefect",
        folder=settings.prefect_dir,
        log=settings.log_dir / "prefect-server.log",
        arguments=("-m", "prefect", "server", "start", "--host", LOOPBACK),
        environment={**environment, **prefect_environment(settings, None)},
        health_path="/api/health",
        preferred_port=4200,
    )


def mlflow_spec(settings: Settings) -> ServerSpec:
    """The MLflow server over the store that runs write to directly."""
    return ServerSpec(
        name="MLflow",
        folder=settings.mlflow_dir,
        log=settings.log_dir / "mlflow-server.log",
        arguments=(
            *("-m", "mlflow", "server", "--host", LOOPBACK, "--workers", "1"),
            *("--backend-store-uri", settings.mlflow_tracking_uri),
            *("--default-artifact-root", (settings.mlflow_dir / "artifacts").as_uri()),
        ),
        environment=child_environment(settings),
        health_path="/health",
        preferred_port=5000,
    )


@dataclass(eq=False, kw_only=True)
class Server:
    """A server that this process holds; it may still be starting."""

    spec: ServerSpec
    port: int
    healthy: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def supervisor_pid(self) -> int:
        """Its supervisor now: a server that died is started anew."""
        known = _recorded(self.spec)
        return known[1] if known else -1

    def is_alive(self) -> bool:
        return _supervises(self.supervisor_pid, self.spec)

    def wait_until_healthy(self, seconds: float = HEALTH_SECONDS) -> None:
        """Wait for its first answer. InfraError with the end of its log if it dies or takes too long."""
        deadline = time.monotonic() + seconds
        moves = 0
        while True:
            if not self.is_alive():
                if moves < MAX_MOVES and self._lost_its_port():
                    moves += 1
                    self.port = _running_or_started(self.spec, 0).port
                    deadline = time.monotonic() + seconds  # another server, with a start of its own
                    continue
                break
            if self._listens() and _answers(self.address + self.spec.health_path):
                self.healthy.set()
                return
            if time.monotonic() > deadline:
                raise InfraError(
                    f"the {self.spec.name} server did not answer within {seconds:.0f} s; see {self.spec.log}."
                )
            time.sleep(0.1)
        raise InfraError(
            f"the {self.spec.name} server ended at its start. The end of {self.spec.log}:\n{_log_tail(self.spec.log)}"
        )

    def _lost_its_port(self) -> bool:
        """True if another tree's server took the port between our look at it and our server's bind.

        Asked of the port, since each server has its own words for it; the log is for a taker that has gone again.
        """
        words = " ".join(_log_tail(self.spec.log, 200).lower().split())
        return free_port(self.port) != self.port or bool(re.search(r"(address|port \d+ is) already in use", words))

    def _listens(self) -> bool:
        """True if the listener on our port is a process of ours, not somebody else's server."""
        try:
            processes = [
                psutil.Process(self.supervisor_pid),
                *psutil.Process(self.supervisor_pid).children(recursive=True),
            ]
            return any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
                for process in processes
                for connection in process.net_connections("tcp")
            )
        except psutil.AccessDenied:  # macOS shows no connections to ordinary users
            return True
        except psutil.NoSuchProcess:
            return False


@contextmanager
def hold(spec: ServerSpec) -> Iterator[Server]:
    """Use the tree's server: reuse the one that runs, else start one. It may not answer yet, see `wait_until_healthy`."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with (spec.folder / "holders.lock").open("a") as held:
        _lock(held, fcntl.LOCK_SH, HOLD_SECONDS, f"the {spec.name} server is being stopped and does not end")
        server = _running_or_started(spec, spec.preferred_port)
        over = threading.Event()
        reviver = threading.Thread(target=_revive, args=(server, over), name=f"revive {spec.name}", daemon=True)
        reviver.start()
        try:
            yield server
        finally:
            over.set()
            reviver.join(HOLD_SECONDS)


def _revive(server: Server, over: threading.Event) -> None:
    """Start the server anew, at its old address, should it die while it is held: clients try again for some seconds."""
    for _ in range(MAX_REVIVALS):
        while not server.healthy.is_set() or server.is_alive():
            if over.wait(0.5):
                return
        logger.warning("the %s server died; it is started anew. Its log: %s", server.spec.name, server.spec.log)
        server.healthy.clear()
        try:
            _running_or_started(server.spec, server.port)
            server.wait_until_healthy()
        except InfraError as error:
            logger.warning("the %s server could not be started anew: %s", server.spec.name, error)
            return


def _running_or_started(spec: ServerSpec, port: int) -> Server:
    with (spec.folder / "start.lock").open("a") as starting:
        _lock(starting, fcntl.LOCK_EX, HOLD_SECONDS, f"another process is starting the {spec.name} server")
        return running_server(spec) or _start(spec, port)


def running_server(spec: ServerSpec) -> Server | None:
    """The server of this tree that is running now, if any. Starts and holds nothing."""
    known = _recorded(spec)
    return Server(spec=spec, port=known[0]) if known is not None and _supervises(known[1], spec) else None


def _recorded(spec: ServerSpec) -> tuple[int, int] | None:
    """Port and supervisor of the server that was started last, if that is known."""
    try:
        known = json.loads((spec.folder / "server.json").read_text(encoding="utf-8"))
        return int(known["port"]), int(known["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start(spec: ServerSpec, wanted_port: int) -> Server:
    port = free_port(wanted_port)
    holders = spec.folder / "holders.lock"
    supervisor = [sys.executable, "-P", str(Path(infra.supervise.__file__)), "holders", str(holders), "--"]
    with spec.log.open("ab") as log:
        process = subprocess.Popen(
            [*supervisor, sys.executable, *spec.arguments, "--port", str(port)],
            cwd=spec.folder,
            env=dict(spec.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: the flow still has states to report
        )
    record = spec.folder / "server.json"
    record.with_suffix(".partial").write_text(json.dumps({"port": port, "pid": process.pid}), encoding="utf-8")
    record.with_suffix(".partial").replace(record)
    return Server(spec=spec, port=port)


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there (pages keep their address), else any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise InfraError("no free port on loopback: close some servers and try again.")


def check_prefect_reachable(api_url: str) -> None:
    """Raise InfraError unless the Prefect server that the user named answers."""
    if not _answers(f"{api_url.rstrip('/')}/health"):
        raise InfraError(
            f"the Prefect server at {api_url} (PREFECT_API_URL) does not answer. Start it, mend the address, or unset "
            "PREFECT_API_URL to let longfuse start its own."
        )


def _supervises(pid: int, spec: ServerSpec) -> bool:
    """True if that process is the supervisor of this tree's server: a pid alone may belong to anybody by now."""
    try:
        process = psutil.Process(pid)
        words: list[str] = []
        for _ in range(20):
            if process.status() == psutil.STATUS_ZOMBIE or (words := process.cmdline()):
                break
            time.sleep(0.01)  # it is between fork and exec: the kernel has no command line for it yet
        return str(spec.folder / "holders.lock") in words
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def _lock(file: IO[str], kind: int, seconds: float, why: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InfraError(f"{why} ({file.name}). Try again in a moment.") from None
            time.sleep(0.1)
        else:
            return


def _log_tail(path: Path, lines: int = 15) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])
