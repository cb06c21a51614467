"""`longfuse jobs ...`: runs on EC2, from what their bucket says. Any machine with the credentials can ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from flows.job_tracking import publish_adopted
from flows.on_ec2 import BUCKET_VARIABLE, SIMULATED, account_of
from infra.ec2.aws import Clients
from infra.ec2.controller import Controller
from infra.ec2.follower import Follower
from infra.ec2.launch import find_by_run, is_alive
from infra.ec2.reaper import ReapError, reap
from infra.ec2.reducer import State
from infra.ec2.resources import Account, load_resources
from infra.ec2.spec import RunSpec
from infra.ec2.store import LeaseLostError, RunStore, list_runs
from infra.errors import InfraError
from infra.settings import Settings, export, load_settings


def mean_the_simulated_cloud(settings: Settings) -> None:
    """Point this process at the simulated cloud of this project's `longfuse run --on ec2 --simulate`. Raises InfraError if none is up."""
    from infra.sim.cloud import SimulatedCloud, SimulatorError

    try:
        cloud = SimulatedCloud.attach(settings.state_dir / SIMULATED)
        cloud.alive()
    except (OSError, SimulatorError) as error:
        raise InfraError(
            f"no simulated cloud is up for {settings.root} ({error}): `longfuse run --on ec2 --simulate` starts one, and it "
            "lives as long as that run."
        ) from None
    export({**cloud.environment, BUCKET_VARIABLE: cloud.bucket})


class Desk:
    """The bucket of runs, opened."""

    def __init__(self) -> None:
        account: Account = account_of(load_resources().account)
        if account.bucket is None:
            raise InfraError("no bucket for runs: set account.bucket in infra/resources.yaml or LONGFUSE_BUCKET.")
        self.clients = Clients()
        self.bucket, self.region = account.bucket, account.bucket_region

    def runs(self) -> Iterator[tuple[RunStore, RunSpec]]:
        """Every run. A folder below runs/ without a spec is none: a probe, or the rest of what somebody removed."""
        for run_id in list_runs(self.clients, self.bucket, self.region):
            store = self.store(run_id)
            if (text := store.read("spec.json")) is not None:
                yield store, RunSpec.model_validate_json(text)

    def store(self, run_id: str) -> RunStore:
        return RunStore(self.clients, self.bucket, self.region, run_id)


def _state(store: RunStore) -> State:
    saved, _ = store.read_state()
    return State.of_json(saved) if saved is not None else State()


def _stands(state: State) -> str:
    return state.outcome if state.phase == "closed" else state.phase


def list_jobs() -> list[str]:
    """A line per run."""
    desk = Desk()
    lines = [f"{'run':<34}{'stage':<16}{'state':<14}{'attempt':>7}{'about USD':>11}"]
    for store, spec in desk.runs():
        state = _state(store)
        lines.append(f"{spec.run_id:<34}{spec.stage:<16}{_stands(state):<14}{state.attempt:>7}{state.spent_usd:>11.2f}")
    return lines if len(lines) > 1 else [f"no runs in {desk.bucket}"]


def show_job(run_id: str) -> list[str]:
    """All about one run."""
    desk = Desk()
    store = desk.store(run_id)
    spec, state = store.spec(), _state(store)
    lines = [
        f"run         {run_id}",
        f"stage       {spec.stage} ({spec.fingerprint[:12]})",
        f"state       {_stands(state)}{': ' + state.message if state.message else ''}",
        f"cost        about {state.spent_usd:.2f} of {spec.budget_usd:g} USD, {state.reserved_usd:.2f} reserved",
    ]
    lines += [f"            {line}" for line in state.history]
    lines += [f"not taken   {line}" for line in (*spec.not_tried, *state.passed_over)]
    lines += [f"not known   {line}" for line in spec.unknown]
    regions = sorted({item.region for item in spec.candidates})
    for item in find_by_run(desk.clients, regions, run_id):
        if is_alive(item):
            where = item["Placement"]["AvailabilityZone"]
            lines.append(f"instance    {item['InstanceId']} {item['InstanceType']} in {where}: {item['State']['Name']}")
    beat = store.read_json(f"attempt-{state.attempt}/node-0/hb")
    if beat is not None and state.phase != "closed":
        ago = time.time() - beat["time"]
        lines.append(
            f"heartbeat   {ago:.0f} s ago: {beat['phase']}, {beat['lines']} lines, checkpoint {beat['checkpoint']}"
        )
    return lines


def job_logs(run_id: str, *, follow: bool) -> Iterator[str]:
    """Lines over all attempts; with `follow` until the run is closed."""
    store = Desk().store(run_id)
    store.spec()
    attempt, number = 1, 0
    while True:
        data = store.read(f"attempt-{attempt}/node-0/log/{number:06d}")
        if data is not None:
            yield from data.decode("utf-8", "replace").splitlines()
            number += 1
            continue
        state = _state(store)
        if attempt < state.attempt:
            attempt, number = attempt + 1, 0
        elif not follow or state.phase == "closed":
            return
        else:
            time.sleep(2.0)


def cancel_job(run_id: str) -> list[str]:
    """Leave word for the controller; become it if there is none."""
    desk = Desk()
    store = desk.store(run_id)
    spec = store.spec()
    store.write_json("cancel", {"by": "longfuse jobs cancel", "time": time.time()})
    controller = Controller(desk.clients, store, spec)
    try:
        controller.take()
    except LeaseLostError as error:
        return [f"{error} It will end the run; `longfuse jobs show {run_id}` tells when."]
    state = controller.run()
    return [f"run {run_id}: {state.outcome}; no instance is left"]


def adopt_job(run_id: str) -> Iterator[str]:
    """Become the controller, and print what the run prints. Raises LeaseLostError if somebody else is."""
    desk = Desk()
    store = desk.store(run_id)
    lines: Queue[str] = Queue()
    controller = Controller(desk.clients, store, store.spec(), Follower(on_line=lines.put))
    controller.take()
    failed: list[BaseException] = []

    def keep() -> None:
        try:
            controller.run()
        except BaseException as error:  # told by the caller's thread  # noqa: BLE001
            failed.append(error)

    thread = Thread(target=keep, daemon=True)
    thread.start()
    while thread.is_alive() or not lines.empty():
        try:
            yield lines.get(timeout=0.2)
        except Empty:
            continue
    state = replace(controller.state, message=str(failed[0])) if failed else controller.state
    if publish_adopted(load_settings(Path.cwd()), store.spec(), state):
        yield f"run {run_id}: its page is in Prefect"
    if failed:
        raise failed[0]
    yield f"run {run_id}: {controller.state.outcome}"


def reap_instances(*, dry_run: bool, say: Callable[[str], None]) -> None:
    """End what is past its deadline, in every region that a profile may use. ReapError if one could not be swept."""
    desk, resources = Desk(), load_resources()
    word = "would be ended" if dry_run else "ended"
    failed: ReapError | None = None
    try:
        found = reap(desk.clients, desk.bucket, desk.region, resources.regions(), dry_run=dry_run)
    except ReapError as error:
        failed, found = error, error.found
    for item in found:
        say(f"{item.resource_id} in {item.region} ({item.run_id}) {word}: {item.why}")
    if failed is not None:
        raise failed
    if not found:
        say("nothing to reap")


def job_costs() -> list[str]:
    """Estimated cost of all runs."""
    desk = Desk()
    lines, spent, reserved = [], 0.0, 0.0
    for store, spec in desk.runs():
        state = _state(store)
        spent, reserved = spent + state.spent_usd, reserved + state.reserved_usd
        lines.append(f"{spec.run_id:<34}{state.spent_usd:>10.2f} USD  {_stands(state)}")
    return [*lines, f"{'all':<34}{spent:>10.2f} USD, {reserved:.2f} reserved (estimates: see your bill)"]
