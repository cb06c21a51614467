"""How long the whole pipeline takes, in a fresh clone of this commit, and how much memory its process tree holds.

    .venv/bin/python benchmarks/pipeline.py [--profile tiny|plumbing] [--out FILE]

Prints one line per command: seconds (wall clock), peak resident memory of the whole process tree, exit code, and the
limit that the project sets itself for 2 cores. Nothing here fails on a slow machine: figures are reported, not tested.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
LIMITS_SECONDS = {"help": 0.5, "plan": 2.0, "nothing to do": 5.0, "plumbing": 240.0, "tiny": 720.0}


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants; shared pages count once per process."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def measure(name: str, arguments: list[str], cwd: Path) -> dict[str, object]:
    """Run one longfuse command, sampling memory twice a second."""
    start = time.monotonic()
    log = (cwd / ".state" / f"benchmark-{name.replace(' ', '-')}.log").open("w") if (cwd / ".state").is_dir() else None
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=cwd,
        stdout=log or subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_rss_bytes(process.pid))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - start
    watcher.join()
    if log:
        log.close()
    return {"command": name, "seconds": round(seconds, 2), "peak_gib": round(peak / 2**30, 2), "exit": code}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--keep", type=Path, help="clone here and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        clone = options.keep or Path(temporary, "longfuse")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / ".state").mkdir(exist_ok=True)
        rows = [measure("help", ["--help"], clone), measure("help", ["--help"], clone)][
            1:
        ]  # the second: byte code exists
        rows.append(measure("plan", ["plan"], clone))
        rows.append(measure(options.profile, ["run", "--profile", options.profile], clone))
        rows.append(measure("plan", ["plan"], clone))
        rows.append(measure("nothing to do", ["run"], clone))
        print(f"{'command':16} {'seconds':>9} {'limit':>7} {'peak GiB':>9} {'exit':>5}")
        for row in rows:
            limit = LIMITS_SECONDS.get(str(row["command"]), float("nan"))
            print(f"{row['command']:16} {row['seconds']:9} {limit:7} {row['peak_gib']:9} {row['exit']:5}")
        if options.out:
            options.out.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
