"""A stage without torch: counts, checkpoints after every step, resumes; what tests on the simulator run on instances.

    python3 toy_stage.py STATE OUTPUT STEPS SECONDS_PER_STEP [MODE] [ARGUMENT]

MODE: hang (ignores SIGTERM, daemonises), fail N, full (fills the disk), memory. It knows SIGUSR1: checkpoint now.
TOY_GATE, if set, names a file with the number of the last step that may be done: so a test holds it where it wants it.
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
gate = os.environ.get("TOY_GATE")
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
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "state.json").write_text(json.dumps({"step": step, "sum": sum(range(step + 1))}))
    partial.rename(folder)
    for old in sorted(state.glob("checkpoint-??????"))[:-1]:
        for path in old.iterdir():
            path.unlink()
        old.rmdir()


def leave(step):
    checkpoint(step)
    print(f"stopped at {step}", flush=True)
    sys.exit(143)


def wait_for_gate(step):
    global asked
    while gate is not None and int(Path(gate).read_text()) < step:
        if stopped:
            leave(step - 1)
        if asked:
            asked = False
            checkpoint(step - 1)
        time.sleep(0.02)


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
        wait_for_gate(step)
        time.sleep(seconds)
        metrics.write(json.dumps({"step": step, "time_ms": int(time.time() * 1000), "metrics": {"count": step}}) + "\n")
        metrics.flush()
        print(f"step {step} at {time.time()}" if os.environ.get("TOY_TIMES") else f"step {step}", flush=True)
        if stopped:
            leave(step)
        if mode != "rare" or asked:
            checkpoint(step)
        asked = False
output.parent.mkdir(parents=True, exist_ok=True)
output.write_text(json.dumps({"sum": sum(range(steps + 1))}))
print("done", flush=True)
