"""`python -m infra.sim FOLDER`: a simulated AWS in a process of its own, until standard input ends or SIGTERM.

Prints one JSON line when it is ready: {"endpoint": .., "bucket": .., "pid": ..}. FOLDER takes the journal, consoles and
disks of instances.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

# Before moto is imported: refuse images and instance types that do not exist.
os.environ.setdefault("MOTO_ENABLE_AMI_VALIDATION", "true")
os.environ.setdefault("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")


def main(arguments: list[str] | None = None) -> int:
    """Run until standard input ends or a signal comes. Returns 3 where instances cannot boot."""
    parser = argparse.ArgumentParser(prog="python -m infra.sim", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=0, help="of faults with a probability")
    parser.add_argument("--environment", type=Path, default=Path(sys.prefix), help="virtual environment of instances")
    parser.add_argument("--pending-seconds", type=float, default=0.5)
    parser.add_argument("--shutting-down-seconds", type=float, default=0.3)
    parser.add_argument("--minute-seconds", type=float, default=60.0, help="of `shutdown -h +N`")
    parser.add_argument("--power-off-seconds", type=float, default=2.0)
    parser.add_argument("--disk-mb", type=int, default=0)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

    from infra.errors import InfraError
    from infra.sim import account, machines, namespaces
    from infra.sim.control import control
    from infra.sim.faults import Faults
    from infra.sim.host import HostOptions
    from infra.sim.hosts import HostAgent
    from infra.sim.journal import Journal
    from infra.sim.server import Cloud, Server

    try:
        namespaces.require()
    except InfraError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(given.port)
    options = HostOptions(
        endpoint=server.address,
        environment=given.environment.absolute(),
        pending_seconds=given.pending_seconds,
        shutting_down_seconds=given.shutting_down_seconds,
        minute_seconds=given.minute_seconds,
        power_off_seconds=given.power_off_seconds,
        disk_mb=given.disk_mb,
    )
    hosts = HostAgent(folder / "instances", options)
    journal = Journal(folder / "journal.jsonl")
    machines.teach_moto_filters()
    server.application = Cloud(hosts, journal, Faults(given.seed), control)
    server.start()
    account.furnish(server.address)
    hosts.start()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    if not sys.stdin.isatty():
        threading.Thread(target=_wait_for_end_of_input, args=(ended,), daemon=True).start()
    sys.stdout.write(json.dumps({"endpoint": server.address, "bucket": account.BUCKET, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    ended.wait()
    hosts.stop()
    server.stop()
    journal.close()
    return 0


def _wait_for_end_of_input(ended: threading.Event) -> None:
    """Our end of the pipe closes when the process that started us dies."""
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    sys.exit(main())
