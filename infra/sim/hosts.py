"""The host agent: boots every simulated instance, and ends it as the cloud would.

    pending --pending_seconds--> running: UserData runs as root in private pid and mount namespaces
    running --TerminateInstances, spot reclaim, hardware death--> shutting-down --> terminated, everything in it killed
    running --shutdown inside--> terminated or stopped, by InstanceInitiatedShutdownBehavior

One thread does all transitions, so states need no lock of their own; other threads leave wishes.
"""

from __future__ import annotations

import base64
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from infra.sim import machines
from infra.sim.host import Host, HostOptions

logger = logging.getLogger(__name__)


class HostAgent:
    """Boots and ends instances. `start`, then `stop`, which leaves no process."""

    def __init__(self, folder: Path, options: HostOptions) -> None:
        self.folder = folder
        self.options = options
        self.hosts: dict[str, Host] = {}
        self._reclaims: dict[str, tuple[float, tuple[str, str]]] = {}  # instance -> when, why
        self._since: dict[str, float] = {}  # instance -> when it came into its present state
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="hosts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every instance and remove their disks."""
        self._stopping.set()
        self._thread.join()
        for host in self.hosts.values():
            host.kill()
            host.close()

    # --- what the wrapper and tests ask for

    def terminate(self, instance: Any, previous: str) -> None:
        """Moto has just called it terminated: not before its processes have ended."""
        if previous in {"pending", "running", "stopping", "shutting-down"}:
            machines.set_state(instance, "shutting-down")

    def reclaim(self, instance_id: str, after_seconds: float = 0.0, reason: tuple[str, str] = machines.SPOT) -> None:
        """End an instance from outside; with time left, a spot instance is told so first."""
        due = time.time() + after_seconds
        if after_seconds > 0:
            self.hosts[instance_id].tell_spot_notice(due)
        self._reclaims[instance_id] = (due, reason)

    def host(self, instance_id: str) -> Host:
        """A booted instance. Raises KeyError."""
        return self.hosts[instance_id]

    # --- the thread

    def _loop(self) -> None:
        while not self._stopping.wait(0.05):
            for region, instance in list(machines.all_instances()):
                try:
                    self._step(region, instance)
                except Exception:  # one instance that cannot boot must not end the others
                    logger.exception("instance %s", instance.id)
                    machines.set_state(instance, "terminated", machines.BROKEN)

    def _step(self, region: str, instance: Any) -> None:
        host = self.hosts.get(instance.id)
        reclaim = self._reclaims.get(instance.id)
        if reclaim is not None and time.time() >= reclaim[0] and instance.state in {"pending", "running", "stopped"}:
            machines.set_state(instance, "shutting-down", reclaim[1])
        if instance.state == "pending":
            begun = self._since.setdefault(instance.id, time.monotonic())
            if time.monotonic() - begun >= self.options.pending_seconds:
                self.hosts[instance.id] = self._boot(region, instance)
                machines.set_state(instance, "running")
        elif instance.state == "running" and host is not None and not host.alive():
            if not host.powered_off():  # its first process died: to the cloud that looks like a broken machine
                machines.set_state(instance, "shutting-down", machines.BROKEN)
            elif instance.instance_initiated_shutdown_behavior == "terminate":
                machines.set_state(instance, "shutting-down", machines.GUEST)
            else:
                machines.set_state(instance, "stopped", machines.GUEST)
                host.close()
        elif instance.state in {"shutting-down", "stopping"}:
            self._end(instance, host)
        elif instance.state in {"stopped", "terminated"} and host is not None and host.alive():
            host.kill()

    def _end(self, instance: Any, host: Host | None) -> None:
        if host is not None and host.alive():
            host.kill()
            self._since[instance.id] = time.monotonic()
        elif time.monotonic() - self._since.setdefault(instance.id, 0.0) >= self.options.shutting_down_seconds:
            machines.set_state(instance, "terminated")
            if host is not None:
                host.close()

    def _boot(self, region: str, instance: Any) -> Host:
        data = instance.user_data
        text = base64.b64decode(str(data)) if data else b""
        host = Host(self.folder / instance.id, instance, region, text, self.options)
        host.boot()
        return host


def processes_of(host: Host) -> list[psutil.Process]:
    """Everything that runs on an instance, its first process excepted."""
    if host.process is None:
        return []
    try:
        return psutil.Process(host.process.pid).children(recursive=True)[1:]
    except psutil.NoSuchProcess:
        return []


def signal_all(host: Host, number: signal.Signals) -> None:
    """SIGSTOP freezes an instance as a hanging kernel would, timers included; SIGCONT thaws it."""
    if host.process is None:
        raise ValueError("the instance has not booted yet")
    for _ in range(3):  # a process may be forking just now
        for process in [*psutil.Process(host.process.pid).children(recursive=True)]:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def out_of_memory(host: Host, command: str) -> int | None:
    """Kill the largest process whose command line holds `command`, as the kernel does when memory is short.

    The count of such kills that the instance reads in /proc/vmstat goes up first. Returns the pid.
    """
    candidates = []
    for process in processes_of(host):
        try:
            if command in " ".join(process.cmdline()):
                candidates.append((process.memory_info().rss, process))
        except psutil.NoSuchProcess:
            continue
    if not candidates:
        return None
    victim = max(candidates, key=lambda pair: pair[0])[1]
    host.count_oom_kill()
    victim.kill()
    return victim.pid
