"""One attempt of a stage on this instance: prepare, run, watch, save, report. The order of things is in `run`.

The stage is stopped (SIGTERM to its group, time for a checkpoint, SIGKILL) by a spot notice, an order of the controller,
a later attempt, or its deadline. Whatever happens, `exit.json` says why, once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from .boot import Boot
from .bucket import Bucket, ExistsError, GivenUpError, pauses
from .checkout import SetupError, check_out, run
from .checkpoints import Checkpoints, SupersededError
from .chunks import FileChunks, LineChunks
from .failure import KILLED, OomWatch, Reserve, disk_is_full
from .metadata import Metadata
from .power import Power
from .prepare import PreflightError, command_environment, environment_programs, preflight
from .process import Command
from .redact import Redactor
from .reporting import Orders, Periodic, Progress

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FIRST_LINES = 5  # of the stage: they leave at once
METRICS_EVERY = 4  # of the shipments of lines
LAST_SECONDS = 20.0  # before the hard cap, for reporting
LONGEST_PUSH_PAUSE_SECONDS = 30.0


class Agent:
    """The attempt. folder: the instance's working folder."""

    def __init__(self, boot: Boot, folder: Path, metadata: Metadata | None = None) -> None:
        self.boot = boot
        self.folder = folder
        self.tree = folder / "code"
        self.started = time.time()
        self.bucket = Bucket(boot.bucket, boot.prefix, boot.region, boot.hard_cap)
        self.place = f"attempt-{boot.attempt}/node-{boot.node}"
        self.lines = LineChunks(self.bucket, f"{self.place}/log")
        self.metadata = metadata or Metadata()
        minute = float(os.environ.get("LONGFUSE_MINUTE_SECONDS", "60"))  # the simulator shortens it
        self.instance_id = self.metadata.get("instance-id") or ""
        self.power = Power(boot.ttl_minutes, boot.hard_cap, minute)
        self.orders = Orders()
        self.progress = Progress()
        self.phase = self.ended_in = "booting"
        self.command: Command | None = None
        self.redact = Redactor()
        self.beats = self.shipped = 0
        self.rebalance: dict[str, Any] | None = None
        self.tail: list[str] = []
        state = self.tree / boot.state_folder if boot.state_folder else folder / "state"
        self.checkpoints = Checkpoints(
            self.bucket, state, attempt=boot.attempt, epoch=boot.epoch, still_ours=self.still_ours
        )
        self.metrics = FileChunks(self.bucket, f"{self.place}/metrics", state / boot.metrics_file)
        self.oom = OomWatch()
        self.reserve: Reserve | None = None
        self.shipping = Periodic("log", boot.log_seconds, self.ship)

    # --- the order of things

    def run(self) -> int:
        """Do all of it. Returns 0 if exit.json tells of success."""
        beat = Periodic("heartbeat", self.boot.heartbeat_seconds, self.beat)
        ship = self.shipping
        watch = Periodic("metadata", self.boot.metadata_seconds, self.watch_metadata)
        for thread in (beat, ship, watch):
            thread.start()
        rc, reason, message = self.attempt()
        self.ended_in = self.phase
        self.enter("reporting")
        for thread in (watch, ship):
            thread.stop()
        self.report(rc, reason, message)
        beat.stop()
        return 0 if reason == "succeeded" else 1

    def attempt(self) -> tuple[int | None, str, str]:
        """(exit status of the stage, reason, message)."""
        try:
            self.not_done_yet()
            self.enter("preflight")
            self.folder.mkdir(parents=True, exist_ok=True)
            measured = preflight(self.boot, self.folder)
            logger.info("preflight: %s", ", ".join(f"{name} {value:.1f}" for name, value in measured.items()))
            self.enter("setup")
            environment = self.set_up()
            self.enter("running")
            rc = self.run_stage(environment)
            if rc != 0 or self.orders.reason is not None:
                return self.stage_ended(rc)
            self.enter("uploading")
            return self.upload(environment)
        except PreflightError as error:
            return None, "preflight", str(error)
        except SupersededError as error:
            return None, "superseded", str(error)
        except (SetupError, GivenUpError, OSError) as error:
            if disk_is_full(self.folder, [str(error)]):
                return None, "disk_full", str(error)
            return None, "infra", f"{self.phase}: {error}"

    def not_done_yet(self) -> None:
        """Raises SupersededError if the run has its result: an attempt may be lost right after it has finished."""
        if self.bucket.get("result.json") is not None:
            raise SupersededError("result.json exists already")

    def set_up(self) -> dict[str, str]:
        """Code, environment, secrets, the last checkpoint; the variables of the command."""
        self.reserve = Reserve(self.folder, self.boot.reserve_mb << 20)
        scratch, home = self.folder / "scratch", self.folder / "home"
        for path in (scratch, home):
            path.mkdir(exist_ok=True)
        if self.boot.code is not None:
            check_out(self.bucket, self.boot.code, self.tree, scratch)
        self.tree.mkdir(exist_ok=True)
        programs = environment_programs(self.boot, self.bucket, self.folder)
        environment, secrets = command_environment(self.boot, programs, home)
        self.redact = Redactor(secrets)
        if (number := self.checkpoints.restore()) is not None:
            logger.info("resuming from checkpoint %06d", number)
            self.metrics.skip(int(self.checkpoints.notes.get("metric_bytes", 0)))
        for name, text in self.boot.files.items():
            path = self.tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for words in self.boot.setup:
            run(words, self.tree, environment)
        return environment

    def run_stage(self, environment: dict[str, str]) -> int:
        """Start the stage and mind it until all of its group has ended; its exit status."""
        if self.orders.reason is not None:
            return 128 + signal.SIGTERM
        deadline = min(
            time.time() + self.boot.runtime_seconds, self.boot.hard_cap - self.boot.grace_seconds - LAST_SECONDS
        )
        command = self.command = Command(
            self.boot.command, folder=self.tree, environment=environment, on_line=self.take_line
        )
        logger.info("stage started: pid %s", command.pid)
        keep = Periodic("checkpoint", self.boot.checkpoint_seconds, self.keep_checkpoint)
        keep.start()
        while command.returncode() is None:
            if time.time() >= deadline:
                self.orders.stop("timed_out", "the stage reached its deadline")
            if self.orders.reason is not None:
                command.stop(self.boot.grace_seconds)
            time.sleep(POLL_SECONDS)
        keep.stop(wait_seconds=max(5.0, self.boot.grace_seconds))
        if command.group_lives():  # what the stage left running in its group goes with it
            command.send(signal.SIGKILL)
        command.finish()
        self.tail = [self.redact(line) for line in command.tail]
        rc = command.returncode()
        assert rc is not None
        logger.info("stage ended: exit code %s", rc)
        return rc

    def stage_ended(self, rc: int) -> tuple[int, str, str]:
        """Why it did not succeed; what it has is saved."""
        full = disk_is_full(self.folder, self.tail)
        if self.reserve is not None:
            self.reserve.release()
        if self.orders.reason != "superseded":
            self.keep_checkpoint()
        if self.orders.reason is not None:
            return rc, self.orders.reason, self.orders.message
        if (kills := self.oom.kills()) > 0:
            return rc, "out_of_memory", f"the kernel killed {kills} of its processes for memory"
        if full:
            return rc, "disk_full", "no space is left on the disk"
        killed = " (killed by a signal)" if rc >= KILLED - 9 else ""
        return rc, "failed", f"the stage's exit code is {rc}{killed}"

    def upload(self, environment: dict[str, str]) -> tuple[int | None, str, str]:
        """Outputs, then the result, which is written once."""
        if self.boot.push is not None:
            self.push(self.boot.push, environment)
        if self.orders.reason is not None:
            return None, self.orders.reason, self.orders.message
        self.still_ours()
        files = {name: (self.tree / name).read_text(encoding="utf-8") for name in self.boot.result_files}
        result = {**self.identity(), "rc": 0, "files": files, "seconds": time.time() - self.started}
        try:
            self.bucket.put_once("result.json", result)
        except ExistsError:
            raise SupersededError("result.json exists already") from None
        return 0, "succeeded", ""

    def push(self, words: list[str], environment: dict[str, str]) -> None:
        """Repeat the upload of outputs until it is through; they stay on disk meanwhile. Raises GivenUpError."""
        for tried, pause in enumerate(pauses(), start=1):
            command = Command(words, folder=self.tree, environment=environment, on_line=self.take_line)
            while command.returncode() is None:
                if self.orders.reason is not None:
                    command.stop(2.0)
                time.sleep(POLL_SECONDS)
            command.finish()
            if command.returncode() == 0 or self.orders.reason is not None:
                return
            if tried >= self.boot.push_tries or time.time() + pause >= self.boot.hard_cap - LAST_SECONDS:
                raise GivenUpError(f"{' '.join(words)}: exit code {command.returncode()} after {tried} attempts")
            logger.warning("outputs are not through yet (attempt %d); again in %.1f s", tried, pause)
            time.sleep(min(pause, LONGEST_PUSH_PAUSE_SECONDS))

    # --- beside the stage

    def enter(self, phase: str) -> None:
        """Note the phase."""
        self.phase = phase
        logger.info("phase %s", phase)

    def take_line(self, line: str) -> None:
        """A line of the stage's. Somebody waits for the first ones."""
        self.lines.add(self.redact(line))
        if self.command is not None and self.command.lines <= FIRST_LINES:
            self.shipping.nudge()

    def beat(self) -> None:
        """Say that we live; hear what the controller wants; keep the dead-man timer off while there is progress."""
        lines = self.command.lines if self.command is not None else 0
        self.progress.look(self.phase, lines, self.metrics.bytes, self.checkpoints.last)
        if self.power.due_to_arm and self.progress.idle_seconds < self.boot.stall_seconds:
            logger.info("dead-man timer set to %s minutes", self.power.arm())
        self.beats += 1
        self.bucket.put_json(
            f"{self.place}/hb",
            {
                **self.identity(),
                "time": time.time(),
                "seq": self.beats,
                "phase": self.phase,
                "lines": lines,
                "idle_seconds": round(self.progress.idle_seconds, 1),
                "checkpoint": self.checkpoints.last,
                "log_chunks": self.lines.count,
                "metric_chunks": self.metrics.count,
                "rebalance": self.rebalance is not None,
                "stopping": self.orders.reason,
            },
        )
        if (poison := self.bucket.get_json(f"attempt-{self.boot.attempt}/poison")) is not None:
            self.orders.stop(str(poison.get("reason", "cancelled")), "by order of the controller")
        try:
            self.still_ours()
        except SupersededError as error:
            self.orders.stop("superseded", str(error))

    def ship(self) -> None:
        """Send what the stage said, and now and then what it measured: somebody waits for lines, and every chunk costs a read."""
        self.lines.ship()
        self.shipped += 1
        if self.shipped % METRICS_EVERY == 0:
            self.metrics.ship()

    def watch_metadata(self) -> None:
        """Spot notices, rebalance recommendations."""
        if (notice := self.metadata.spot_notice()) is not None:
            self.orders.stop("interrupted", f"spot notice for {notice.get('time', 'soon')}")
        if self.rebalance is None and (found := self.metadata.rebalance()) is not None:
            self.rebalance = found
            logger.info("rebalance recommendation: an extra checkpoint, and on")
            if self.boot.checkpoint_signal is not None and self.command is not None:
                os.kill(self.command.pid, signal.Signals[self.boot.checkpoint_signal])
                time.sleep(self.boot.metadata_seconds)
            self.keep_checkpoint()

    def keep_checkpoint(self) -> None:
        """Copy what changed in the state folder. Several threads may ask."""
        # Metrics that the copy holds but that were not sent yet are sent by whoever goes on from it.
        if (number := self.checkpoints.commit({"metric_bytes": self.metrics.bytes})) is not None:
            logger.info("checkpoint %06d is in the bucket", number)

    def still_ours(self) -> None:
        """Raises SupersededError if the run's epoch is past ours."""
        found = self.bucket.get_json("epoch")
        if found is not None and int(found["epoch"]) > self.boot.epoch:
            raise SupersededError(f"epoch {found['epoch']} owns the run, ours is {self.boot.epoch}")

    def report(self, rc: int | None, reason: str, message: str) -> None:
        """The last lines, and exit.json. Raises GivenUpError if the storage takes neither in time."""
        logger.info("exit: %s %s", reason, message)
        if self.reserve is not None:
            self.reserve.release()
        self.metrics.ship(last=True)
        self.lines.ship()
        exit_record = {
            **self.identity(),
            "rc": rc,
            "reason": reason,
            "message": self.redact(message),
            "phase": self.ended_in,
            "tail": self.tail,
            "seconds": time.time() - self.started,
            "checkpoint": self.checkpoints.last,
            "log_chunks": self.lines.count,
            "metric_chunks": self.metrics.count,
            "oom_kills": self.oom.kills(),
            "finished": time.time(),
        }
        try:
            self.bucket.put_once(f"{self.place}/exit.json", exit_record)
        except ExistsError:
            logger.warning("exit.json exists already: it stays as it is")

    def identity(self) -> dict[str, Any]:
        """Who we are, in every record."""
        return {
            "run_id": self.boot.run_id,
            "attempt": self.boot.attempt,
            "epoch": self.boot.epoch,
            "node": self.boot.node,
            "instance_id": self.instance_id,
        }
