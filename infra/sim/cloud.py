"""`SimulatedCloud`: a simulated AWS for a test, a benchmark or `longfuse run --simulate`.

    with SimulatedCloud(folder) as cloud:
        client = boto3.client("ec2", endpoint_url=cloud.endpoint, ...)   # or export cloud.environment
        cloud.fault(Rule(operation="RunInstances", error="InsufficientInstanceCapacity", match={"az": "us-east-1a"}))
        cloud.spot_notice(instance_id, seconds=5)

It runs in a process of its own that ends with this one, and instances with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from infra.errors import InfraError
from infra.sim import namespaces
from infra.sim.faults import Rule

READY = "ready.json"
CALLER = "AKIASIMULATEDCONTROL"  # the access key of the launching side, as the journal names it


class SimulatorError(InfraError):
    """The simulator did not start, or refused a control request."""


class SimulatedCloud:
    """A simulated AWS. `start` or `with`; `environment` is what clients need; `folder` keeps journal and consoles.

    prebuilt: the virtual environment that instances use instead of an installed wheelhouse (default: this one).
    options: `minute_seconds=1.0` and so on, the flags of `python -m infra.sim`.
    """

    def __init__(self, folder: Path, *, prebuilt: Path | None = None, **options: float) -> None:
        self.folder = folder
        self.endpoint = ""
        self.bucket = ""
        self._no_config = folder.resolve() / "empty"  # the user's own profile must not be read
        self._prebuilt = prebuilt or Path(sys.prefix)
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> SimulatedCloud:
        """Raises NoNamespacesError where instances cannot boot, SimulatorError if the process does not come up."""
        namespaces.require()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._no_config.touch()
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._options.items()]
        with (self.folder / "simulator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.sim", str(self.folder), f"--environment={self._prebuilt}", *flags],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,  # its lifeline
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            said = (self.folder / "simulator.log").read_text(encoding="utf-8", errors="replace")[-2000:]
            raise SimulatorError(f"the simulator did not start: {said or 'it said nothing'}")
        ready = json.loads(line)
        self.endpoint, self.bucket = ready["endpoint"], ready["bucket"]
        (self.folder / READY).write_text(line, encoding="utf-8")
        return self

    @classmethod
    def attach(cls, folder: Path) -> SimulatedCloud:
        """The simulator that another process started with this folder: faults and looks, no `stop`."""
        ready = json.loads((folder / READY).read_text(encoding="utf-8"))
        cloud = cls(folder)
        cloud.endpoint, cloud.bucket = ready["endpoint"], ready["bucket"]
        return cloud

    def stop(self) -> None:
        """End it, with every instance. Never raises for one that has ended."""
        process, self._process = self._process, None
        (self.folder / READY).unlink(missing_ok=True)
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> SimulatedCloud:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point boto3, DVC and the launcher of another process here. No real account can be reached."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": CALLER,
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(self._no_config),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._no_config),
        }

    # --- faults and events

    def fault(self, rule: Rule) -> int:
        """Put a fault in force; returns its number."""
        return int(self._ask("fault", rule=rule.model_dump()))

    def clear(self, number: int | None = None) -> None:
        """Lift one fault, or all."""
        self._ask("clear", number=number)

    def hits(self, number: int) -> int:
        """How many calls a fault has hit."""
        return int(self._ask("hits", number=number))

    def spot_notice(self, instance_id: str, seconds: float) -> None:
        """Tell a spot instance that it will be reclaimed, and do so when the time has passed."""
        self._ask("notice", id=instance_id, seconds=seconds)

    def spot_kill(self, instance_id: str) -> None:
        """Reclaim a spot instance without notice."""
        self._ask("kill", id=instance_id)

    def hardware_death(self, instance_id: str) -> None:
        """The machine under an instance breaks."""
        self._ask("break", id=instance_id)

    def rebalance(self, instance_id: str) -> None:
        """Publish a rebalance recommendation."""
        self._ask("rebalance", id=instance_id)

    def freeze(self, instance_id: str) -> None:
        """Its kernel hangs: nothing on it runs, timers included."""
        self._ask("freeze", id=instance_id)

    def thaw(self, instance_id: str) -> None:
        """A frozen instance runs on."""
        self._ask("thaw", id=instance_id)

    def out_of_memory(self, instance_id: str, command: str) -> int | None:
        """The kernel kills the largest process whose command line holds `command`; its pid, None if there is none."""
        pid = self._ask("oom", id=instance_id, command=command)
        return None if pid is None else int(pid)

    def behave(self, **options: float) -> None:
        """Instances that boot from now on: `disk_mb`, `power_off_seconds` and so on, fields of HostOptions."""
        self._ask("behave", options=options)

    def set_quota(self, code: str, vcpus: float) -> None:
        """Change a service quota."""
        self._ask("quota", code=code, value=vcpus)

    # --- looking

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Every AWS call so far, in order."""
        entries: list[dict[str, Any]] = self._ask("journal", since=since)
        return entries

    def calls(self, operation: str, **facts: Any) -> list[dict[str, Any]]:
        """The calls of one operation with these facts."""
        entries: list[dict[str, Any]] = self._ask("calls", facts={"operation": operation, **facts})
        return entries

    def instances(self, **tags: str) -> list[dict[str, Any]]:
        """Every instance that was launched (with these tags), also ended ones."""
        found: list[dict[str, Any]] = self._ask("instances", tags=tags)
        return found

    def alive(self, **tags: str) -> list[dict[str, Any]]:
        """Instances that cost money, or still have a disk that does."""
        return [item for item in self.instances(**tags) if item["state"] != "terminated"]

    def console(self, instance_id: str) -> str:
        """What an instance printed."""
        return str(self._ask("console", id=instance_id))

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The first true value of `condition`. Raises SimulatorError naming `what` when the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            if value := condition():
                return value
            if time.monotonic() >= deadline:
                raise SimulatorError(f"{what}: not within {seconds:g} s")
            time.sleep(0.05)

    def _ask(self, verb: str, **arguments: Any) -> Any:
        request = urllib.request.Request(
            f"{self.endpoint}/_simulator/{verb}", data=json.dumps(arguments).encode(), method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise SimulatorError(f"{verb} {arguments}: {error.read().decode()}") from None
