"""Keeps one run until it is closed: looks, lets the reducer decide, does it, and writes down the state before doing it.

Any process can do this for any run: it takes the lease, reads the state, and finds instances by tag. A controller that
loses its lease stops at once, without touching anything.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import botocore.exceptions

from infra.ec2.aws import EXPIRED, AwsError, Clients, ErrorClass, classify, code_of, what_to_do
from infra.ec2.follower import Follower
from infra.ec2.launch import Launched, Launcher, find_by_run, is_alive
from infra.ec2.reducer import Action, Seen, State, step
from infra.ec2.spec import RunSpec
from infra.ec2.store import Lease, RunStore

logger = logging.getLogger(__name__)

METRICS_EVERY = 4  # looks
CANCEL_EVERY = 2


class Controller:
    """One run, kept by this process. `run` returns the final state; `lease` is held while it works."""

    def __init__(self, clients: Clients, store: RunStore, spec: RunSpec, follower: Follower | None = None) -> None:
        self._clients = clients
        self._store = store
        self._spec = spec
        self._follower = follower or Follower()
        self._launcher = Launcher(clients, store, spec)
        self._regions = sorted({item.region for item in spec.candidates})
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        self._lease: Lease | None = None
        self._renewed = 0.0
        self._looks = 0
        self._launched: Launched | None = None
        self._state_etag = ""
        self.state = State()

    def take(self, wait_seconds: float = 0.0) -> None:
        """Take the lease, waiting for another controller's to expire if asked to. Raises LeaseLostError."""
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                self._lease = self._store.acquire(self._owner, self._spec.rhythm.lease_seconds)
                break
            except Exception:  # a lease that is held, or a store that refuses for a moment: both pass
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.5)
        self._renewed = self._store.clock()
        saved, self._state_etag = self._store.read_state()
        if saved is not None:
            # What a controller before us asked for and did not live to see is asked again: the intent is the same.
            self.state = State.of_json(saved)

    def run(self) -> State:
        """Until the run is closed. Raises LeaseLostError, AwsError (credentials), or what `on_line` raises."""
        if self._lease is None:
            self.take()
        try:
            while not self._is_closed():
                self.look_and_act()
                if not self._is_closed():
                    time.sleep(self._pause())
        finally:
            self.give_up()
        return self.state

    def catch_up(self) -> None:
        """Hand over metrics that another controller of this run did not, or nobody did."""
        self._quietly(lambda: self._follower.measure(self._store, self.state.attempt))

    def give_up(self) -> None:
        """Let anybody else take the run at once."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            self._quietly(lambda: self._store.release(lease))

    def _is_closed(self) -> bool:
        return self.state.phase == "closed"

    def look_and_act(self) -> None:
        """One round."""
        try:
            self._renew()
            seen = self._look()
            state, actions = step(self._spec, self.state, seen)
            if _worth_writing(self.state, state):
                self._state_etag = self._store.write_state(state.as_json(), self._state_etag)
                if state.phase != self.state.phase or state.attempt != self.state.attempt:
                    logger.info(
                        "run %s: %s, attempt %d %s", self._spec.run_id, state.phase, state.attempt, state.outcome
                    )
            self.state = state
            for action in actions:
                self._act(action)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            if classify(error) is ErrorClass.STOP and not _passing(error):
                raise AwsError(
                    f"run {self._spec.run_id}: {error}: {what_to_do(error)}. What runs goes on and ends by itself; "
                    f"`longfuse jobs adopt {self._spec.run_id}` keeps it again."
                ) from error
            logger.warning("run %s: %s; looking again", self._spec.run_id, error)

    def _pause(self) -> float:
        quick = self._launched is not None or self.state.phase == "planned"
        return 0.0 if quick else self._spec.rhythm.poll_seconds

    def _renew(self) -> None:
        assert self._lease is not None
        now = self._store.clock()  # the lease's own clock: one that was set back makes it renew as well
        if not 0 <= now - self._renewed < self._spec.rhythm.lease_seconds / 3:
            self._lease = self._store.renew(self._lease, self._spec.rhythm.lease_seconds)
            self._renewed = now

    def _look(self) -> Seen:
        state, launched, self._launched = self.state, self._launched, None
        self._looks += 1
        regions = self._regions
        if state.phase == "watching":  # a call per region and look; the others are looked at before and after
            regions = [self._spec.candidates[state.candidate].region]
        instances = find_by_run(self._clients, regions, self._spec.run_id)
        alive = tuple(item["InstanceId"] for item in instances if is_alive(item))
        taken = any(
            item["InstanceId"] in state.instances and item.get("StateReason", {}).get("Code", "").startswith("Server.")
            for item in instances
        )
        beat = exit_record = None
        ended = state.phase in {"watching", "ending"} and not any(name in alive for name in state.instances)
        if state.phase == "watching":
            beat = self._store.read_json(f"attempt-{state.attempt}/node-0/hb")
        reported = beat is not None and (beat["phase"] == "reporting" or beat["stopping"])
        if state.phase in {"watching", "ending"}:
            if ended or reported:
                exit_record = self._store.read_json(f"attempt-{state.attempt}/node-0/exit.json")
            self._follower.follow(
                self._store,
                state.attempt,
                beat=beat,
                metrics=self._looks % METRICS_EVERY == 0,
                rest=exit_record is not None or state.phase == "ending",
            )
        empty = launched if launched is not None and (launched.none or launched.gone) else None
        maybe_done = state.phase in {"planned", "ending"} or exit_record is not None or ended or empty is not None
        return Seen(
            now=self._store.clock(),
            alive=_with_unseen(alive, instances, state, self._store.clock()),
            launched=None if launched is None or launched == Launched() else launched.instances,
            image=launched.image if launched is not None else "",
            shortage=empty.code if empty is not None else "",
            ran=empty is not None and (empty.gone or self._heard_of(state.attempt)),
            refused=launched.refused if launched is not None else "",
            taken=taken,
            beat_seq=beat["seq"] if beat is not None else state.beat_seq,
            exit=exit_record,
            result=maybe_done and self._store.read("result.json") is not None,
            cancel=self._asked_to_cancel(),
        )

    def _heard_of(self, attempt: int) -> bool:
        """Whether an instance of the attempt has left anything: then none may be launched for it."""
        return bool(self._store.keys(f"attempt-{attempt}/node-0/"))

    def _asked_to_cancel(self) -> bool:
        """Every other look while a stage runs: it costs a call."""
        if self.state.phase == "watching" and self._looks % CANCEL_EVERY:
            return False
        return self._store.read("cancel") is not None

    def _act(self, action: Action) -> None:
        values = action.values
        if action.kind == "launch":
            self._launched = self._launcher.launch(values["attempt"], values["intent"], values["candidate"])
        elif action.kind == "poison":
            self._store.write_json(f"attempt-{values['attempt']}/poison", {"reason": values["reason"]})
        elif action.kind == "terminate":
            for region in self._regions:
                self._terminate(region, values["instances"])
        else:
            self._store.write_once("closed.json", {**self.state.as_json(), "closed": self._store.clock()})

    def _terminate(self, region: str, wanted: Collection[str]) -> None:
        """Raises botocore's error if it is refused; the reducer asks again. Until then somebody pays: that is told loudly."""
        found = find_by_run(self._clients, [region], self._spec.run_id)
        names = [item["InstanceId"] for item in found if item["InstanceId"] in wanted]
        if not names:
            return
        try:
            self._clients.launcher(region).terminate_instances(InstanceIds=names)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            logger.log(
                logging.ERROR,
                "run %s: %s in %s could not be ended and costs money: %s; asking again",
                self._spec.run_id,
                ", ".join(names),
                region,
                error,
            )
            raise

    def _quietly(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            logger.warning("run %s: %s", self._spec.run_id, error)


def _with_unseen(alive: tuple[str, ...], instances: list[dict[str, Any]], state: State, now: float) -> tuple[str, ...]:
    """An instance that was just launched may not be listed yet: it is taken for alive for a while."""
    listed = {item["InstanceId"] for item in instances}
    fresh = now - state.launched < UNLISTED_SECONDS
    return (*alive, *(name for name in state.instances if fresh and name not in listed))


UNLISTED_SECONDS = 60.0


def _worth_writing(before: State, after: State) -> bool:
    """A new heartbeat alone is not: whoever takes over sees the next one."""
    return replace(after, beat=before.beat, beat_seq=before.beat_seq) != before


def _passing(error: BaseException) -> bool:
    """Errors that may pass although nobody knows their code; credentials do not come back by themselves."""
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        return False
    if isinstance(error, botocore.exceptions.ClientError):
        code = code_of(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code not in EXPIRED and (status >= 500 or code in {"SlowDown", "RequestTimeout"})
    return True
