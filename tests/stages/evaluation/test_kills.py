"""kill -9 at several points of an evaluation: no finished question is asked again, none is lost, the bytes are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from killed_evaluation import QUESTIONS, SAMPLES

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CALLS = QUESTIONS * SAMPLES


def start(out, log, concurrent):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    arguments = [sys.executable, str(HERE / "killed_evaluation.py"), str(out), str(log), str(concurrent)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def calls_in(log):
    return log.read_text().splitlines() if log.exists() else []


def kill_after(calls, process, log):
    """SIGKILL once the log has so many lines; the process must not be done by then."""
    until = time.monotonic() + 60
    while len(calls_in(log)) < calls:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stderr.close()


def finish(process):
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def finished_in(out):
    """Names of the questions in whole lines of the state file."""
    (path,) = (out / "state").glob("answers-*.jsonl")
    lines = [line for line in path.read_bytes().split(b"\n")[:-1] if line]
    return {entry["key"][2] for line in lines for entry in json.loads(line)}


@pytest.mark.parametrize("concurrent", [0, 3])
def test_a_killed_evaluation_neither_redoes_nor_loses_a_question(tmp_path, concurrent):
    finish(start(tmp_path / "whole", tmp_path / "whole.log", concurrent))
    assert Counter(calls_in(tmp_path / "whole.log")) == {f"q{n:02d}": SAMPLES for n in range(QUESTIONS)}

    out, done = tmp_path / "killed", set()
    for turn, calls in enumerate((1, 6, 9)):
        log = tmp_path / f"{turn}.log"
        kill_after(calls, start(out, log, concurrent), log)
        assert done.isdisjoint(calls_in(log))  # what was finished before is not asked again
        assert done <= finished_in(out)
        done = finished_in(out)
    assert 0 < len(done) < QUESTIONS
    finish(start(out, tmp_path / "last.log", concurrent))
    assert Counter(calls_in(tmp_path / "last.log")) == {
        f"q{n:02d}": SAMPLES for n in range(QUESTIONS) if f"q{n:02d}" not in done
    }
    for name in ("predictions.jsonl", "scores.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
