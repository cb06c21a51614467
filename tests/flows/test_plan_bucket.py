"""A plan where an output lies in the bucket only: done if the record and dvc.lock agree and nothing here contradicts, else not."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from toy_project import Toy

from flows.bucket_data import missing_inputs, pull_from_bucket, require_here
from flows.dvc_graph import Dag
from flows.final_model import _fetch
from flows.plan import make_plan, stage_fingerprint
from flows.plan_table import render_plan, summary
from flows.session import Request, prepare
from flows.yaml_io import read_yaml
from infra.bucket_outputs import BucketOutput, forget, in_words, note, recorded
from infra.ec2.dvc import dvc
from infra.errors import InfraError, StageStoppedError
from infra.settings import child_environment, load_settings
from stages.common.errors import ConfigError, InputError


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    toy = Toy(root).build()
    assert toy.repro() == ["a", "b", "c"]
    return toy


def send_away(toy: Toy, *names: str) -> BucketOutput:
    """As after a job of stage a: the record, the listing in the cache; these files of out/a neither here nor in the cache."""
    dag = Dag(toy.root, read_yaml(toy.root / "params.yaml"))
    (out,) = dag.stages["a"].outs
    assert out.locked_md5 is not None
    listing = json.loads(dag.cache_file(out.locked_md5).read_text())
    md5s = {item["relpath"]: item["md5"] for item in listing}
    files = {name: (md5, (toy.root / "out/a" / name).stat().st_size) for name, md5 in md5s.items()}
    output = BucketOutput(stage="a", path="out/a", md5=out.locked_md5, bucket="team", region="us-east-1", files=files)
    note(toy.root, output)
    for name in names:
        (toy.root / "out/a" / name).unlink()
        dag.cache_file(md5s[name]).unlink()
    return output


def test_a_stage_whose_output_lies_in_the_bucket_is_done_and_says_so(made: Toy) -> None:
    before = stage_fingerprint(made.root, "c", read_yaml(made.root / "params.yaml"))
    output = send_away(made, "all.txt")
    assert recorded(made.root) == {"out/a": output}
    plan = made.plan()
    assert set(made.actions().values()) == {"skip"}
    assert plan["a"].in_bucket == (output,)
    assert plan.warnings == ()
    assert summary(plan) == "Nothing to do: all 3 stages are up to date (1 of them in the bucket)."
    assert "skip    a  unchanged; out/a in s3://team (8 bytes not here)" in render_plan(plan)
    assert json.loads(plan.as_json())[0] == {"stage": "a", "action": "skip", "reasons": []}
    assert stage_fingerprint(made.root, "c", read_yaml(made.root / "params.yaml")) == before


def test_without_the_record_or_with_one_of_another_result_it_runs(made: Toy) -> None:
    output = send_away(made, "all.txt")
    forget(made.root, output)
    assert made.actions()["a"] == "run"
    note(made.root, BucketOutput(**{**vars(output), "md5": "0" * 32 + ".dir"}))
    assert made.actions()["a"] == "run"
    (made.root / ".state/in_bucket/out/a.json").write_text("{")
    assert made.actions()["a"] == "run"


def test_a_changed_parameter_or_a_file_that_differs_counts_as_ever(made: Toy) -> None:
    send_away(made, "all.txt")
    made.replace("params.yaml", "seed: 1", "seed: 2")
    assert made.actions()["a"] == "run"
    made.replace("params.yaml", "seed: 2", "seed: 1")
    assert made.actions()["a"] == "skip"
    made.replace("params.yaml", "0.9", "0.5")
    assert made.actions() == {"a": "skip", "b": "skip", "c": "run"}
    made.replace("params.yaml", "0.5", "0.9")
    (made.root / "out/a/parts/count.txt").unlink()
    made.write("out/a/parts/count.txt", "7\n")
    assert made.actions()["a"] == "run"


def test_nothing_of_it_here_is_still_done_but_not_without_the_listing(made: Toy) -> None:
    output = send_away(made, "all.txt", "parts/count.txt")
    shutil.rmtree(made.root / "out/a")
    assert set(made.actions().values()) == {"skip"}
    dag = Dag(made.root, read_yaml(made.root / "params.yaml"))
    dag.cache_file(output.md5).unlink()
    assert made.actions()["a"] == "run"


def test_what_the_cache_holds_is_restored_without_the_bucket(made: Toy) -> None:
    send_away(made)
    shutil.rmtree(made.root / "out/a")
    assert made.actions()["a"] == "restore"


def test_only_what_a_stage_reads_is_missing(made: Toy) -> None:
    output = send_away(made, "all.txt")
    params = read_yaml(made.root / "params.yaml")
    assert missing_inputs(made.root, params, "b") == []  # reads out/a/parts, which is here
    (missing,) = missing_inputs(made.root, params, "c")
    assert (missing.target, missing.names, missing.size) == ("out/a/all.txt", ["all.txt"], "8 bytes")
    assert output.absent(made.root, "out/a/parts") == []
    assert output.absent(made.root, "out/a/all.txt") == ["all.txt"]


def test_who_opens_a_model_that_is_not_here_is_told_the_command(made: Toy) -> None:
    send_away(made, "all.txt")
    with pytest.raises(InputError, match=r"out/a/all.txt is not here.*s3://team.*longfuse jobs pull a"):
        require_here(made.root / "out/a")
    require_here(made.root / "out/a/parts")
    (made.root / "pointer").mkdir()
    made.write("pointer/model.json", '{"path": "../out/a", "md5": ""}')  # a stage that changed nothing
    with pytest.raises(InputError, match="jobs pull a"):
        require_here(made.root / "pointer")
    with pytest.raises(ConfigError, match="Stages of which something does: a"):
        pull_from_bucket(made.root, "b", {}, print)


def test_an_old_record_says_nothing_of_a_newer_result(made: Toy) -> None:
    send_away(made, "all.txt")
    made.write("source/3.txt", "three\n")
    assert made.repro()[0] == "a"
    assert make_plan(made.root)["a"].in_bucket == ()
    (made.root / "out/a/all.txt").unlink()
    require_here(made.root / "out/a")  # not the bucket's business
    with pytest.raises(InputError, match="another result"):
        pull_from_bucket(made.root, "a", {}, print)


@pytest.mark.parametrize(
    ("size", "words"), [(999, "999 bytes"), (1500, "1.5 KB"), (60_200_000_000, "60.2 GB"), (2_000_000, "2.0 MB")]
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words


def test_a_fetch_that_is_stopped_ends_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))  # in the place of DVC
    stop = threading.Event()

    def when_started() -> None:
        while not (tmp_path / "pid").is_file():
            stop.wait(0.01)
        stop.set()

    threading.Thread(target=when_started).start()
    with pytest.raises(StageStoppedError, match="dvc pull was stopped"):
        dvc(tmp_path, {"PATH": "/usr/bin:/bin"}, "pull", stop=stop)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_model_in_the_bucket_is_registered_with_the_command_that_fetches_it_from_there(made: Toy) -> None:
    assert _fetch(made.root, "out/a") == "dvc pull out/a"
    send_away(made, "all.txt")
    assert _fetch(made.root, "out/a") == (
        "dvc remote add --local --force longfuse-jobs s3://team/dvc && dvc pull --remote longfuse-jobs out/a"
    )


def prepared(toy: Toy) -> tuple[dict[str, str], list[str]]:
    """What `longfuse run` would do after its checks, and what it said."""
    said: list[str] = []
    _, plan = prepare(load_settings(toy.root), Request(), read_yaml, said.append)
    return {stage.stage: stage.action for stage in plan.stages}, said


def test_a_run_begins_with_a_look_into_the_bucket(made: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    send_away(made, "all.txt")
    asked: list[list[str]] = []

    def answer(there: bool) -> Callable[..., bool]:
        return lambda _clients, _output, names: asked.append(list(names)) or there

    monkeypatch.setattr("infra.ec2.outputs.still_there", answer(True))
    assert prepared(made) == ({"a": "skip", "b": "skip", "c": "skip"}, [])
    monkeypatch.setattr("infra.ec2.outputs.still_there", answer(False))
    actions, said = prepared(made)
    assert actions["a"] == "run"
    assert said == ["warning: s3://team does not hold out/a any more: a has to run again."]
    assert asked == [["all.txt"]] * 2  # of what is here nobody needs to ask
    assert recorded(made.root) == {}


def test_a_bucket_that_does_not_answer_changes_nothing(made: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    send_away(made, "all.txt")
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nobody listens there
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    actions, (line,) = prepared(made)
    assert set(actions.values()) == {"skip"}
    assert line.startswith("warning: s3://team does not say whether it still holds out/a")
    with pytest.raises(InfraError, match=r"needs out/a of a, which lies in s3://team only.*(?s:.)*jobs pull a"):
        pull_from_bucket(made.root, "a", child_environment(load_settings(made.root)), lambda _line: None)
