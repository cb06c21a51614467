"""The parts of the node agent, each by itself, on a simulated bucket."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import uuid
import zipfile

import pytest

from infra.ec2.node import pack
from infra.ec2.node.boot import Blob, Code, parse_boot
from infra.ec2.node.bucket import Bucket, ExistsError, GivenUpError
from infra.ec2.node.checkout import SetupError, check_out, fetch
from infra.ec2.node.checkpoints import Checkpoints, SupersededError
from infra.ec2.node.chunks import FileChunks, LineChunks
from infra.ec2.node.failure import OomWatch, Reserve, disk_is_full
from infra.ec2.node.prepare import environment_programs
from infra.ec2.node.process import Command
from infra.ec2.node.redact import Redactor
from infra.ec2.node.reporting import Orders, Periodic
from infra.ec2.node.user_data import render_user_data
from infra.sim.faults import Rule

BOOT = {
    "run_id": "r", "attempt": 1, "epoch": 1, "bucket": "b", "region": "us-east-1", "prefix": "runs/r",
    "command": ["true"], "hard_cap": 0.0,
}  # fmt: skip


@pytest.fixture
def bucket(quiet, monkeypatch):
    for name, value in quiet.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(quiet.bucket, f"runs/{uuid.uuid4().hex}", "us-east-1", time.time() + 20)


def checkpoints(bucket, folder, still_ours=lambda: None):
    folder.mkdir(exist_ok=True)
    return Checkpoints(bucket, folder, attempt=1, epoch=1, still_ours=still_ours)


@pytest.mark.slow
def test_a_write_goes_on_after_more_failures_than_botocore_bears(bucket, quiet):
    number = quiet.fault(Rule(service="s3", operation="PutObject", error="SlowDown", status=503, count=4))
    bucket.put("a", b"text")
    assert (bucket.get("a"), quiet.hits(number)) == (b"text", 4)


def test_what_is_written_once_survives_a_lost_answer_and_refuses_another_writer(bucket, quiet):
    quiet.fault(Rule(service="s3", operation="PutObject", effect="lose_response", count=1))
    bucket.put_once("result.json", {"rc": 0})
    assert bucket.get_json("result.json") == {"rc": 0}
    with pytest.raises(ExistsError):
        bucket.put_once("result.json", {"rc": 1})
    assert bucket.get_json("result.json") == {"rc": 0}


def test_a_refusal_is_not_retried(bucket, quiet):
    number = quiet.fault(Rule(service="s3", operation="GetObject", error="AccessDenied", status=403))
    with pytest.raises(GivenUpError, match="AccessDenied"):
        bucket.get("a")
    assert quiet.hits(number) == 1


@pytest.mark.slow
def test_writing_ends_with_the_time_that_is_left(quiet, bucket):
    bucket.until = time.time() + 0.5
    quiet.fault(Rule(service="s3", operation="PutObject", error="InternalError", status=500))
    with pytest.raises(GivenUpError, match="no time is left"):
        bucket.put("a", b"x")


def test_a_checkpoint_holds_only_what_changed_and_drops_what_nobody_needs(bucket, tmp_path):
    ours = checkpoints(bucket, tmp_path / "state")
    for step in range(1, 5):
        (tmp_path / "state" / "fixed.bin").write_bytes(b"same")
        (tmp_path / "state" / "moving.json").write_text(str(step))
        (tmp_path / "state" / "x.partial").mkdir(exist_ok=True)
        (tmp_path / "state" / "x.partial" / "half").write_text("half")
        assert ours.commit() == step
    assert ours.commit() is None  # nothing is new
    keys = bucket.keys("ckpt/")
    assert sorted(keys) == [
        "ckpt/000001/fixed.bin",
        "ckpt/000003/COMMIT", "ckpt/000003/moving.json",
        "ckpt/000004/COMMIT", "ckpt/000004/moving.json",
    ]  # fmt: skip
    again = checkpoints(bucket, tmp_path / "elsewhere")
    assert again.restore() == 4
    assert (tmp_path / "elsewhere/moving.json").read_text() == "4"
    assert (tmp_path / "elsewhere/fixed.bin").read_bytes() == b"same"
    assert again.changed() is False


def test_a_checkpoint_that_is_replaced_while_it_is_copied_is_copied_whole(bucket, tmp_path, monkeypatch):
    ours, folder = checkpoints(bucket, tmp_path / "state"), tmp_path / "state"
    put_file, step = bucket.put_file, 1

    def save():
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old)
        (folder / f"checkpoint-{step}").mkdir()
        for name in ("a.bin", "b.bin"):
            (folder / f"checkpoint-{step}" / name).write_text(f"{name} {step}")

    def slow(key, path):
        nonlocal step
        step += 1
        save()
        return put_file(key, path)

    save()
    monkeypatch.setattr(bucket, "put_file", slow)
    assert ours.commit() == 1
    assert ours.changed()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    monkeypatch.undo()
    again = checkpoints(bucket, tmp_path / "elsewhere")
    assert again.restore() == 1
    assert (tmp_path / "elsewhere/checkpoint-1/a.bin").read_text() == "a.bin 1"
    assert (tmp_path / "elsewhere/checkpoint-1/b.bin").read_text() == "b.bin 1"


def test_without_a_commit_there_is_no_checkpoint_and_a_spoilt_one_is_passed_over(bucket, tmp_path):
    ours = checkpoints(bucket, tmp_path / "state")
    for step in (1, 2):
        (tmp_path / "state" / "a.json").write_text(str(step))
        ours.commit()
    bucket.put("ckpt/000002/a.json", b"spoilt")
    bucket.put("ckpt/000003/a.json", b"3")  # torn: its COMMIT never came
    again = checkpoints(bucket, tmp_path / "elsewhere")
    assert again.restore() == 1
    assert (tmp_path / "elsewhere/a.json").read_text() == "1"


def test_a_commit_after_a_damaged_one_takes_the_next_number(bucket, tmp_path):
    ours = checkpoints(bucket, tmp_path / "state")
    (tmp_path / "state" / "a.json").write_text("1")
    ours.commit()
    bucket.put("ckpt/000001/a.json", b"spoilt")
    again = checkpoints(bucket, tmp_path / "elsewhere")
    assert again.restore() is None
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    (tmp_path / "elsewhere" / "a.json").write_text("1")
    assert again.commit() == 2


def test_a_superseded_attempt_commits_nothing(bucket, tmp_path):
    def gone():
        raise SupersededError

    ours = checkpoints(bucket, tmp_path / "state", gone)
    (tmp_path / "state" / "a.json").write_text("1")
    with pytest.raises(SupersededError):
        ours.commit()
    assert not [key for key in bucket.keys("ckpt/") if key.endswith("COMMIT")]


def test_lines_and_files_become_numbered_chunks(bucket, tmp_path):
    lines = LineChunks(bucket, "log")
    lines.add("one")
    lines.ship()
    lines.ship()
    lines.add("two")
    lines.add("three")
    lines.ship()
    assert [bucket.get(key) for key in sorted(bucket.keys("log/"))] == [b"one\n", b"two\nthree\n"]
    spool = FileChunks(bucket, "metrics", tmp_path / "spool")
    spool.ship()
    (tmp_path / "spool").write_text('{"a": 1}\n{"a"')
    spool.ship()
    (tmp_path / "spool").write_text('{"a": 1}\n{"a": 2}\n')
    spool.ship()
    assert [bucket.get(key) for key in sorted(bucket.keys("metrics/"))] == [b'{"a": 1}\n', b'{"a": 2}\n']


def test_code_is_the_commit_with_its_changes_and_new_files(bucket, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tree / "a.txt").write_text("committed\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=tree, check=True)
    (tree / "a.txt").write_text("changed\n")
    out = subprocess.run(
        [*git, "bundle", "create", "-q", "-", "HEAD"], cwd=tree, check=True, capture_output=True
    ).stdout
    diff = subprocess.run([*git, "diff", "--binary", "HEAD"], cwd=tree, check=True, capture_output=True).stdout
    commit = subprocess.run([*git, "rev-parse", "HEAD"], cwd=tree, check=True, capture_output=True, text=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("sub/new.txt")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"new"))

    def blob(name, data):
        bucket.put(name, data)
        return Blob(f"{bucket.prefix}/{name}", hashlib.sha256(data).hexdigest())

    code = Code(blob("bundle", out), commit.strip(), blob("diff", diff), blob("untracked", packed.getvalue()))
    (tmp_path / "scratch").mkdir()
    check_out(bucket, code, tmp_path / "node", tmp_path / "scratch")
    assert (tmp_path / "node/a.txt").read_text() == "changed\n"
    assert (tmp_path / "node/sub/new.txt").read_text() == "new"
    with pytest.raises(SetupError, match="sha256"):
        fetch(bucket, Blob(f"{bucket.prefix}/bundle", "0" * 64), tmp_path / "x")


@pytest.mark.slow
def test_without_a_prebuilt_environment_the_project_is_installed(bucket, tmp_path, monkeypatch):
    monkeypatch.delenv("LONGFUSE_PREBUILT_ENVIRONMENT", raising=False)
    (tmp_path / "code").mkdir()
    wheel = "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / "code" / wheel, "w") as archive:
        archive.writestr("toy.py", "print('installed')")
        archive.writestr("toy-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
        archive.writestr("toy-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.dist-info/RECORD", "")
    install = ["--no-index", "--no-deps", wheel]
    programs = environment_programs(parse_boot({**BOOT, "install": install}), bucket, tmp_path)
    done = subprocess.run([programs / "python", "-m", "toy"], cwd="/", capture_output=True, text=True)
    assert done.stdout == "installed\n"


def test_the_agent_is_one_file_with_the_same_bytes_every_time(tmp_path):
    assert pack.agent_bytes() == pack.agent_bytes()
    (tmp_path / "agent.pyz").write_bytes(pack.agent_bytes())
    (tmp_path / "boot.json").write_text(json.dumps({**BOOT, "colour": "red"}))
    done = subprocess.run([sys.executable, "agent.pyz", "boot.json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 70
    assert "unknown keys colour" in done.stderr


def test_user_data_arms_the_dead_man_timer_before_anything_else():
    names = {"region": "us-east-1", "bucket": "b", "agent_key": "a", "boot_key": "k", "boot_log_key": "l"}
    text = render_user_data(
        run_id="r", attempt=1, node=0, ttl_minutes=90, agent_sha256="0" * 64, boot_sha256="1" * 64, **names
    )
    assert text.splitlines()[:2] == ["#!/bin/bash", "shutdown -h +90"]
    assert len(text.encode()) < 4096
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    with pytest.raises(ValueError, match="ttl_minutes"):
        render_user_data(run_id="r", attempt=1, node=0, ttl_minutes=0, agent_sha256="", boot_sha256="", **names)


def test_a_boot_file_with_an_unknown_or_a_missing_key_is_refused():
    assert parse_boot(BOOT).ttl_minutes == 60
    with pytest.raises(ValueError, match="colour"):
        parse_boot({**BOOT, "colour": "red"})
    with pytest.raises(ValueError, match="command"):
        parse_boot({key: value for key, value in BOOT.items() if key != "command"})


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("key is swordfish-42 here", "key is [removed] here"),
        ("AKIAIOSFODNN7EXAMPLE", "[removed]"),
        ("aws_secret_access_key = abcdefghijklmnop", "aws_secret_access_key = [removed]"),
        ("Authorization: Bearer abcdefghijklmnopqrst", "Authorization: Bearer [removed]"),
        ("https://me:hunter22@example.org/x", "https://[removed]@example.org/x"),
        ("perf/tokens_per_s: 12345.678901", "perf/tokens_per_s: 12345.678901"),
        ("max_tokens: 123456789", "max_tokens: 123456789"),
    ],
)
def test_secrets_are_blanked_and_figures_are_not(text, clean):
    assert Redactor(["swordfish-42"])(text) == clean


def test_the_whole_group_is_stopped_and_waited_for(tmp_path):
    script = "trap 'sleep 0.3; echo saved; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    lines = []
    command = Command(
        ["bash", "-c", f'bash -c "{script}"; true'],
        folder=tmp_path,
        environment={"PATH": "/usr/bin:/bin"},
        on_line=lines.append,
    )
    deadline = time.monotonic() + 5
    while "ready" not in lines and time.monotonic() < deadline:
        time.sleep(0.02)
    command.stop(5.0)
    command.finish()
    assert [line for line in lines if line != "Terminated"] == ["ready", "saved"]  # the word is of the outer shell
    assert not command.group_lives()


def test_the_first_reason_to_stop_stands():
    orders = Orders()
    orders.stop("interrupted", "a")
    orders.stop("cancelled", "b")
    assert (orders.reason, orders.message) == ("interrupted", "a")


def test_memory_kills_are_counted_from_now_on_and_a_full_disk_is_recognised(tmp_path):
    (tmp_path / "vmstat").write_text("nr_free 1\noom_kill 4\n")
    watch = OomWatch(tmp_path / "vmstat")
    (tmp_path / "vmstat").write_text("nr_free 1\noom_kill 6\n")
    assert watch.kills() == 2
    assert disk_is_full(tmp_path, ["OSError: [Errno 28] No space left on device"])
    assert not disk_is_full(tmp_path, ["all is well"])
    Reserve(tmp_path, 1 << 16)
    assert (tmp_path / "reserve").stat().st_size == 1 << 16


def test_what_is_done_now_and_then_is_done_at_once_when_nudged_and_ends_when_told():
    calls = threading.Semaphore(0)
    periodic = Periodic("test", 3600.0, calls.release)
    periodic.start()
    assert calls.acquire(timeout=60)
    periodic.nudge()
    assert calls.acquire(timeout=60)
    periodic.stop(wait_seconds=60)
    assert not periodic._thread.is_alive()
    assert not calls.acquire(blocking=False)
