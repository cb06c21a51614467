"""A stage without torch: counts, checkpoints after every step, resumes; what tests on the simulator run on instances.

    python3 toy_stage.py STATE OUTPUT STEPS SECONDS_PER_STEP [MODE] [ARGUMENT]

MODE: hang (ignores SIGTERM, daemonises), fail N, full (fills the disk), memory. It knows SIGUSR1: checkpoint now.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

state, output, steps, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
mode = sys.argv[5] if len(sys.argv) > 5 else "count"
stopped = False
asked = False


def stop(*_):
    global stopped
    stopped = True


def ask(*_):
    global asked
    asked = True


def checkpoint(step):
    folder = state / f"checkpoint-{step:06d}"
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "state.json").write_text(json.dumps({"step": step, "sum": sum(range(step + 1))}))
    partial.rename(folder)
    for old in sorted(state.glob("checkpoint-??????"))[:-1]:
        for path in old.iterdir():
            path.unlink()
        old.rmdir()


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, ask)
state.mkdir(parents=True, exist_ok=True)
found = sorted(state.glob("checkpoint-??????"))
first = json.loads((found[-1] / "state.json").read_text())["step"] if found else 0
print(f"start at {first}", flush=True)
if mode == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["setsid", "nohup", "sleep", "3600"])
    time.sleep(3600)
if mode == "fail":
    print("the toy fails", flush=True)
    sys.exit(int(sys.argv[6]))
if mode == "full":
    with (state / "filler").open("wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
            file.flush()
with (state / "metrics.spool.jsonl").open("a") as metrics:
    for step in range(first + 1, steps + 1):
        time.sleep(seconds)
        metrics.write(json.dumps({"step": step, "time_ms": int(time.time() * 1000), "metrics": {"count": step}}) + "\n")
        metrics.flush()
        print(f"step {step} at {time.time()}" if os.environ.get("TOY_TIMES") else f"step {step}", flush=True)
        if mode != "rare" or asked or stopped:
            checkpoint(step)
        asked = False
        if stopped:
            print(f"stopped at {step}", flush=True)
            sys.exit(143)
output.parent.mkdir(parents=True, exist_ok=True)
output.write_text(json.dumps({"sum": sum(range(steps + 1))}))
print("done", flush=True)
