"""Lines and metrics of a run, from chunks in a bucket that is a dictionary."""

import json

from infra.ec2.follower import Follower, MetricJoin


class Chunks(dict):
    reads = 0

    def read(self, key):
        self.reads += 1
        return self.get(key)

    def put(self, kind, attempt, *chunks):
        self.update(
            {f"attempt-{attempt}/node-0/{kind}/{number:06d}": chunk.encode() for number, chunk in enumerate(chunks)}
        )


def measured(*steps, time_ms=1, **metrics):
    values = metrics or {"loss": 0.5}
    return "".join(json.dumps({"step": step, "time_ms": time_ms, "metrics": values}) + "\n" for step in steps)


def steps_of(parts):
    return [json.loads(line)["step"] for line in b"".join(parts).splitlines()]


def test_whoever_begins_late_gets_the_metrics_of_every_attempt_and_the_lines_of_the_last():
    store, got, lines = Chunks(), [], []
    store.put("metrics", 1, measured(1, 2), measured(3))
    store.put("metrics", 2, measured(3, 4))
    store.put("log", 1, "old\n")
    store.put("log", 2, "new\n")
    follower = Follower(lines.append, got.append)
    follower.follow(store, 2, beat={"log_chunks": 1, "metric_chunks": 1}, metrics=True)
    assert (steps_of(got), lines) == ([1, 2, 3, 3, 4], ["new"])
    store.put("metrics", 2, measured(3, 4), measured(5))
    follower.measure(store, 2)
    assert steps_of(got) == [1, 2, 3, 3, 4, 5]  # nothing twice


def test_a_look_costs_two_reads_when_there_is_nothing_new():
    store = Chunks()
    follower = Follower(print, print)
    follower.follow(store, 1, beat={"log_chunks": 0, "metric_chunks": 0}, metrics=True)
    assert store.reads == 2
    follower.follow(store, 1, beat={"log_chunks": 0, "metric_chunks": 0}, metrics=False)
    assert store.reads == 3


def test_a_line_over_two_chunks_is_handed_over_whole_and_half_a_line_of_a_lost_attempt_is_not():
    store, got = Chunks(), []
    text = measured(1, 2)
    store.put("metrics", 1, text[:40], text[40:] + '{"step": 3, "ti')
    store.put("metrics", 2, measured(3))
    Follower(print, got.append).measure(store, 2)
    assert steps_of(got) == [1, 2, 3]


def test_a_step_that_is_measured_again_passes_once_and_other_metrics_of_that_step_pass(tmp_path):
    join = MetricJoin()
    first = join.new(measured(1, 2).encode())
    again = join.new((measured(2, 3, time_ms=9) + measured(2, grad_norm=1.0)).encode())
    assert (steps_of([first]), steps_of([again])) == ([1, 2], [3, 2])
    assert join.new(b'{"finished": true}\n') == b'{"finished": true}\n'
    assert join.new(b"half a li\n") == b"half a li\n"
    trajectory = json.dumps({"time_ms": 1, "trajectory": {"sample": "a"}}).encode() + b"\n"
    later = trajectory.replace(b'"time_ms": 1', b'"time_ms": 7')
    assert (join.new(trajectory), join.new(later)) == (trajectory, b"")

    spool = tmp_path / "spool.jsonl"
    spool.write_text(measured(1, 2))
    assert steps_of([MetricJoin(spool).new(measured(2, 3).encode())]) == [3]
