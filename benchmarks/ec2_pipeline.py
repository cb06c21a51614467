"""A whole profile with its training stages on simulated EC2: time and cost of every stage, attempts, calls, and whether the weights are a local run's.

    python -m benchmarks.ec2_pipeline [--profile tiny] [--spot-kills N] [--compare] [--keep FOLDER]

--spot-kills N takes the instance of rl@stage2 away N times, without and with notice in turns, each after an update that the
attempt before had not made; a checkpoint is then kept after every update, in the local run, too. --compare makes the same
again on this machine, as far as rl@stage4, and compares the md5s of all that both have. On simulated instances the
processors are this machine's, so what EC2 adds to a stage is what to look at, not how fast the stage is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.params import profile_params, write_params
from infra.sim.cloud import CALLER
from tests.integration.ec2_pipeline import STOLEN, Thief, outputs, pipeline_on_ec2
from tests.integration.tree import copy_project, reproduce

LOOKING = "AKIALOOKINGON"  # the key of this process, so that its looks are not counted as the launching side's
LOOK_SECONDS = 2.0
DONE = re.compile(r"^\S+ (\S+): done \((?:(\d+) h )?(?:(\d+) min )?(?:([\d.]+) s)?\)$", re.MULTILINE)
BOOT_SECONDS, END_SECONDS = 30.0, 10.0  # of an instance: there the controller has more to do than watch


def project(folder: Path, profile: str, every_update: bool) -> Path:
    tree = copy_project(folder)
    params = profile_params(profile)
    if every_update:
        params["rl"]["shared"]["checkpoint_every_steps"] = 1
    write_params(tree / "params.yaml", params)
    return tree


def export(values: Mapping[str, str]) -> None:
    os.environ.update({**values, "AWS_ACCESS_KEY_ID": LOOKING})


def stage_seconds(log: str) -> dict[str, float]:
    """How long each stage took from its start, as `longfuse run` says: pushes, the launch and pulls are in it, its wait for a turn is not."""
    found = DONE.findall(log)
    return {stage: 3600 * int(h or 0) + 60 * int(m or 0) + float(s or 0) for stage, h, m, s in found}


def run_records(tree: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in tree.glob(".state/**/run.json")]
    return {record["stage"]: record for record in records if "stage" in record}


def quiet_rate(calls: list[dict[str, Any]]) -> float:
    """Calls per second of the launching side while instances work: without their first and last seconds."""
    launches = [call["time"] for call in calls if call["operation"] == "RunInstances" and call["status"] == 200]
    counted, seconds = 0, 0.0
    for start, following in zip(launches, [*launches[1:], float("inf")], strict=True):
        heard = [
            call["time"] for call in calls if call["caller"].startswith("ASIA") and start < call["time"] < following
        ]
        if not heard or max(heard) - END_SECONDS <= start + BOOT_SECONDS:
            continue
        begin, end = start + BOOT_SECONDS, max(heard) - END_SECONDS
        counted += sum(call["caller"] == CALLER and begin < call["time"] < end for call in calls)
        seconds += end - begin
    return counted / seconds if seconds else float("nan")


def report(tree: Path, log: str, seconds: float) -> None:
    records, walls = run_records(tree), stage_seconds(log)
    print(f"{'stage':28} {'wall, s':>8} {'its run, s':>10} {'USD':>8}  where and attempts")
    for stage, wall in walls.items():
        record = records.get(stage, {})
        where = "; ".join(record["attempts"]) if "attempts" in record else "here"
        own, cost = record.get("seconds", float("nan")), record.get("cost_usd", 0.0)
        print(f"{stage:28} {wall:8.1f} {own:10.1f} {cost:8.4f}  {where}")
    cost = sum(record.get("cost_usd", 0.0) for record in records.values())
    print(f"in all {seconds:.0f} s, {cost:.4f} USD at list prices, load now {os.getloadavg()[2]:.1f}")
    calls = [json.loads(line) for line in (tree / ".state/simulated/journal.jsonl").read_text().splitlines()]
    ours = Counter(call["operation"] for call in calls if call["caller"] == CALLER)
    launched = Counter(call["error"] or "taken" for call in calls if call["operation"] == "RunInstances")
    print(
        f"RunInstances: {dict(launched)}; calls of the launching side: {sum(ours.values())}: {dict(ours.most_common(8))}"
    )
    print(f"its calls while instances work: {quiet_rate(calls):.2f} per second", flush=True)


def compare(there: Path, here: Path) -> None:
    """Prints each stage whose outputs differ."""
    stages = tuple(yaml.safe_load((here / "dvc.lock").read_text())["stages"])
    ours, theirs = outputs(here, stages), outputs(there, stages)
    files = {stage: sum(out.get("nfiles", 1) for out in outs) for stage, outs in ours.items()}
    different = [stage for stage in stages if ours[stage] != theirs[stage]]
    print(f"outputs of {len(stages)} stages compared, {sum(files.values())} files; different: {different or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--spot-kills", type=int, default=0, metavar="N")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--keep", type=Path, help="work here and keep it")
    options = parser.parse_args()
    steps = profile_params(options.profile)["rl"]["stage2"]["steps"]
    if options.spot_kills >= steps:
        parser.error(
            f"--spot-kills {options.spot_kills}: {STOLEN} of this profile makes {steps} updates, one more is needed."
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        there = project(folder / "there", options.profile, options.spot_kills > 0)
        log = folder / "there.log"
        started = time.time()
        with pipeline_on_ec2(there, log, export) as (cloud, process):
            if options.spot_kills:
                thief = Thief(cloud, lambda: process.poll() is None, LOOK_SECONDS)
                thief.steal(*("kill" if number % 2 == 0 else "notice" for number in range(options.spot_kills)))
            if process.wait() != 0:
                raise SystemExit(f"the run ended with exit code {process.returncode}:\n{log.read_text()[-4000:]}")
        report(there, log.read_text(), time.time() - started)
        if options.compare:
            here = project(folder / "here", options.profile, options.spot_kills > 0)
            started = time.time()
            reproduce(here, "rl@stage4")
            print(f"the same as far as rl@stage4 on this machine, by DVC: {time.time() - started:.0f} s", flush=True)
            compare(there, here)


if __name__ == "__main__":
    main()
