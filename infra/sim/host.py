"""One simulated instance: its folder, its metadata service, its processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import infra.sim.guest_init
from infra.sim import imds
from infra.sim.namespaces import UNSHARE

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostOptions(BaseModel):
    """How simulated instances behave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(description="Address of the simulated AWS, as instances see it.")
    environment: Path | None = Field(default=None, description="A virtual environment, mounted read-only.")
    pending_seconds: float = Field(default=0.5, description="From RunInstances until the user data starts.")
    shutting_down_seconds: float = Field(default=0.3, description="From the end of all processes to terminated.")
    minute_seconds: float = Field(default=60.0, description="How long a minute of `shutdown -h +N` takes.")
    power_off_seconds: float = Field(default=2.0, description="From SIGTERM to SIGKILL when an instance powers off.")
    disk_mb: int = Field(default=0, description="Size of an instance's disk (in memory); 0: no limit of its own.")


class Host:
    """`boot` starts it, `kill` pulls the plug, `close` removes what is left (the console stays)."""

    def __init__(self, folder: Path, instance: Any, region: str, user_data: bytes, options: HostOptions) -> None:
        self.folder = folder
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.metadata = imds.MetadataService(
            imds.instance_documents(instance, region, instance.profile),
            token_required=instance.metadata_options.http_tokens == "required",
        )
        self._user_data = user_data
        self._oom_kills = 0
        self._closed = False

    @property
    def console(self) -> Path:
        """What the instance printed."""
        return self.folder / "console.log"

    def boot(self) -> None:
        """Start the first process. It dies with the thread that calls this, and everything on the instance with it."""
        shims, disk, power = self.folder / "shims", self.folder / "disk", self.folder / "power"
        for path in (shims, disk):
            path.mkdir(parents=True)
        os.mkfifo(power)
        text = Path(__file__).with_name("shutdown_shim.sh").read_text(encoding="utf-8")
        for name in ("shutdown", "poweroff", "halt"):
            (shims / name).write_text(text.replace("@POWER@", f"'{power}'"), encoding="utf-8")
            (shims / name).chmod(0o755)
        (self.folder / "user-data").write_bytes(self._user_data)
        self._write_vmstat()
        self.metadata.start()
        config = self.folder / "host.json"
        config.write_text(json.dumps(self._config(shims, disk, power)), encoding="utf-8")
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                [*UNSHARE, "--", sys.executable, "-P", infra.sim.guest_init.__file__, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={"PATH": SYSTEM_PATH},
                start_new_session=True,
            )

    def _config(self, shims: Path, disk: Path, power: Path) -> dict[str, Any]:
        prebuilt = self.options.environment
        programs = [str(shims), *([str(prebuilt / "bin")] if prebuilt else []), SYSTEM_PATH]
        environment = {
            "PATH": ":".join(programs),
            "HOME": str(disk / "home"),
            "TMPDIR": str(disk / "tmp"),
            "LANG": "C.UTF-8",
            "AWS_ENDPOINT_URL": self.options.endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.address,
            "LONGFUSE_NODE_DIR": str(disk / "work"),
            "LONGFUSE_MINUTE_SECONDS": str(self.options.minute_seconds),
        }
        if prebuilt:
            environment["LONGFUSE_PREBUILT_ENVIRONMENT"] = str(prebuilt)
        return {
            "disk": str(disk),
            "disk_mb": self.options.disk_mb,
            "shims": str(shims),
            "power": str(power),
            "powered_off": str(self.folder / "powered-off"),
            "user_data": str(self.folder / "user-data"),
            "environment": environment,
            "minute_seconds": self.options.minute_seconds,
            "power_off_seconds": self.options.power_off_seconds,
            "read_only": [str(prebuilt)] if prebuilt else [],
            "files": {"/proc/vmstat": str(self.folder / "vmstat")},
        }

    def _write_vmstat(self) -> None:
        (self.folder / "vmstat").write_text(f"nr_free_pages 100000\noom_kill {self._oom_kills}\n", encoding="utf-8")

    def count_oom_kill(self) -> None:
        """One more process killed for memory, as /proc/vmstat tells."""
        self._oom_kills += 1
        self._write_vmstat()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def powered_off(self) -> bool:
        """True if it was shut down from inside."""
        return (self.folder / "powered-off").exists()

    def tell_spot_notice(self, due: float) -> None:
        """The two-minute warning, as long before as it may be."""
        text = json.dumps({"action": "terminate", "time": imds.utc(due)})
        self.metadata.put("meta-data/spot/instance-action", text)
        self.metadata.put("meta-data/spot/termination-time", imds.utc(due))

    def tell_rebalance(self) -> None:
        """The recommendation to move elsewhere before a notice may come."""
        text = json.dumps({"noticeTime": imds.utc(time.time())})
        self.metadata.put("meta-data/events/recommendations/rebalance", text)

    def kill(self) -> None:
        """Pull the plug: nothing on it runs on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        """The metadata service, and the disk, which goes with the instance."""
        if not self._closed:
            self._closed = True
            self.metadata.stop()
            shutil.rmtree(self.folder / "disk", ignore_errors=True)
