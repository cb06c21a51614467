"""The planner against real DVC projects: what it predicts is what `dvc repro` then does."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_project import Toy

from flows import dvc_graph
from flows.plan import Reason, discard_hand_edits, edited_files, make_plan, require_unedited, select, stage_fingerprint
from flows.plan_table import render_plan
from flows.yaml_io import read_yaml
from stages.common.errors import ConfigError, EnvironmentFailureError, InputError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return _in_folder(tmp_path, monkeypatch).build()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that ran once; tests change copies of it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        toy = _in_folder(tmp_path_factory.mktemp("toy"), monkeypatch).build()
        assert toy.repro() == ["a", "b", "c"]
        return toy.root


@pytest.fixture
def made(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = _in_folder(tmp_path, monkeypatch)
    shutil.copytree(template, toy.root, dirs_exist_ok=True)
    return toy


def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
    root = folder / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    return Toy(root)


def test_a_fresh_project_runs_everything_in_order(toy: Toy) -> None:
    plan = toy.plan()
    assert [(s.stage, s.action) for s in plan.stages] == [("a", "run"), ("b", "run"), ("c", "run")]
    assert plan["a"].reasons == (Reason("output", "a"),)
    assert plan["c"].reasons == (Reason("output", "c"), Reason("upstream", "a"), Reason("upstream", "b"))
    assert plan["a"].fingerprint is not None
    assert plan["b"].fingerprint is None  # its input is not known yet
    assert plan["c"].upstream == ("a", "b")


def test_nothing_changed_is_skip_without_reasons(made: Toy) -> None:
    plan = made.plan()
    assert {s.action for s in plan.stages} == {"skip"}
    assert all(s.reasons == () for s in plan.stages)
    assert plan.to_do == ()
    assert plan.warnings == ()
    assert made.repro() == []


def test_json_is_the_contract(made: Toy) -> None:
    made.replace("params.yaml", "0.9", "2e-1")
    assert json.loads(made.plan().as_json()) == [
        {"stage": "a", "action": "skip", "reasons": []},
        {"stage": "b", "action": "skip", "reasons": []},
        {"stage": "c", "action": "run", "reasons": [{"kind": "param", "name": "c.opt.beta", "old": 0.9, "new": 0.2}]},
    ]


def test_a_changed_comment_or_key_order_changes_nothing(made: Toy) -> None:
    made.write("params.yaml", "c: {opt: {beta: 0.90}}\nb: {deep: 1}\nsource: source\nseed: 1 # other\n")
    assert set(made.actions().values()) == {"skip"}


def test_a_parameter_changed_and_changed_back_is_restored_without_running(made: Toy) -> None:
    made.replace("params.yaml", "deep: 1", "deep: 2")
    assert made.plan()["b"].reasons == (Reason("param", "b.deep", 1, 2),)
    assert made.actions() == {"a": "skip", "b": "run", "c": "run"}
    assert made.plan()["c"].reasons == (Reason("upstream", "b"),)
    assert made.repro() == ["b"]  # equal bytes stop it there
    made.replace("params.yaml", "deep: 2", "deep: 1")
    plan = made.plan()
    assert {s.stage: s.action for s in plan.stages} == {"a": "skip", "b": "restore", "c": "skip"}
    assert plan["b"].reasons == (Reason("param", "b.deep", 2, 1),)
    assert made.repro() == []
    assert set(made.actions().values()) == {"skip"}


def test_new_and_removed_keys_are_reasons_without_a_value(made: Toy) -> None:
    made.replace("params.yaml", "{deep: 1}", "{deeper: 1}")
    assert made.plan()["b"].reasons == (Reason("param", "b.deeper", None, 1), Reason("param", "b.deep", 1, None))


def test_restored_outputs_are_followed_through_files_and_folders_inside_them(made: Toy) -> None:
    made.write("source/2.txt", "zwei\n")  # a's text changes, its number of documents does not
    assert made.actions() == {"a": "run", "b": "run", "c": "run"}
    assert made.repro() == ["a", "c"]
    made.write("source/2.txt", "two\n")
    plan = made.plan()
    assert {s.stage: s.action for s in plan.stages} == {"a": "restore", "b": "skip", "c": "restore"}
    assert [r.kind for r in plan["a"].reasons] == ["data"]
    assert [(r.kind, r.name) for r in plan["c"].reasons] == [("data", "out/a/all.txt")]
    assert made.repro() == []


def test_code_and_data_and_command_changes_are_told_apart(made: Toy) -> None:
    made.write("stages/b.py", "# changed\n")
    made.write("source/3.txt", "three\n")
    made.replace("dvc.yaml", "tool.py c", "tool.py  c")
    plan = made.plan()
    assert [(r.kind, r.name) for r in plan["a"].reasons] == [("data", "source")]
    assert [(r.kind, r.name) for r in plan["b"].reasons] == [("code", "stages/b.py"), ("upstream", "a")]
    command = plan["c"].reasons[0]
    assert command.kind == "command"
    assert command.old.endswith("tool.py c")
    assert command.new.endswith("tool.py  c")


def test_a_deleted_output_is_restored_and_without_the_cache_made_again(made: Toy) -> None:
    (made.root / "out/b.txt").unlink()
    plan = made.plan()
    assert {s.stage: s.action for s in plan.stages} == {"a": "skip", "b": "restore", "c": "skip"}
    [reason] = plan["b"].reasons
    assert (reason.kind, reason.name, reason.new) == ("output", "out/b.txt", None)
    assert reason.old is not None
    shutil.rmtree(made.root / ".dvc/cache")
    assert made.actions()["b"] == "run"
    assert any("dvc commit a" in warning for warning in made.plan().warnings)


def test_a_clone_with_a_lock_but_no_outputs_and_no_cache_runs_everything(made: Toy) -> None:
    for folder in ("out", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(made.root / folder)
    assert made.actions() == {"a": "run", "b": "run", "c": "run"}


def test_an_output_edited_by_hand_is_named_and_nothing_is_lost_unasked(made: Toy) -> None:
    edited = made.root / "out/a/all.txt"
    edited.unlink()
    edited.write_text("mine")
    plan = made.plan()
    assert plan["a"].action == "restore"
    assert plan["a"].edited == ("out/a",)
    assert edited_files(plan) == ["out/a/all.txt"]
    with pytest.raises(InputError, match=r"(?s)out/a/all\.txt.*--discard-edits"):
        require_unedited(plan)
    assert edited.read_text() == "mine"
    assert plan["c"].action == "skip"  # judged by what a will be


def test_an_edit_through_a_hard_link_into_the_cache_is_not_restored(toy: Toy) -> None:
    made = toy
    made.repro()
    edited = made.root / "out/a/all.txt"
    good = edited.read_text()
    assert edited.stat().st_nlink == 2
    mode = edited.stat().st_mode
    edited.chmod(0o644)
    edited.write_text("mine")  # the same inode as the cached object
    edited.chmod(mode)  # root may write read-only files: then DVC trusts the damaged object
    assert discard_hand_edits(made.plan()) == ["out/a/all.txt"]
    assert made.actions() == {"a": "run", "b": "run", "c": "run"}
    assert made.repro() == ["a"]
    assert edited.read_text() == good


def test_what_the_cache_holds_is_no_hand_edit(made: Toy) -> None:
    old_lock = (made.root / "dvc.lock").read_text()
    made.write("source/2.txt", "zwei\n")
    made.repro()
    made.write("dvc.lock", old_lock)  # as after `git checkout` of another branch
    made.write("source/2.txt", "two\n")
    plan = made.plan()
    assert plan["a"].action == "restore"
    assert edited_files(plan) == []


def test_dvc_agrees_with_the_plan_over_random_changes(made: Toy) -> None:
    choose = random.Random(5)
    changes = [
        lambda: made.write("source/2.txt", choose.choice(["two\n", "zwei\n", "deux\n"])),
        lambda: made.write("stages/b.py", choose.choice(["# b\n", "# bb\n"])),
        lambda: made.write("params.yaml", f"seed: 1\nsource: source\nb: {{deep: {choose.choice([1, 2])}}}\nc: {{opt:\n {{\n beta: {choose.choice([0.9, 0.8])}\n}}\n}}\n"),
        lambda: (made.root / choose.choice(["out/b.txt", "out/a/all.txt", "out/c.txt"])).unlink(missing_ok=True),
    ]  # fmt: skip
    for _ in range(10):
        for change in choose.sample(changes, k=choose.choice([1, 2])):
            change()
        plan = made.plan()
        ran = set(made.repro())
        may_run = {s.stage for s in plan.stages if s.action == "run"}
        must_run = {s.stage for s in plan.stages if s.action == "run" and s.fingerprint is not None}
        assert must_run <= ran <= may_run
        assert set(made.actions().values()) == {"skip"}


def test_parameters_in_memory_also_move_the_source_folder(made: Toy) -> None:
    shutil.copytree(made.root / "source", made.root / "other")
    params = read_yaml(made.root / "params.yaml") | {"source": "other"}
    plan = made.plan(params=params)
    assert ("data", "other") in [(r.kind, r.name) for r in plan["a"].reasons]
    assert set(made.actions().values()) == {"skip"}  # the file is untouched


def test_only_and_from_judge_by_what_is_on_disk(made: Toy) -> None:
    made.replace("params.yaml", "deep: 1", "deep: 2")
    plan = made.plan()
    assert [s.stage for s in select(plan, only="c").stages] == ["c"]
    assert select(plan, only="c")["c"].action == "skip"  # b stays as it is
    assert [(s.stage, s.action) for s in select(plan, from_="b").stages] == [("b", "run"), ("c", "run")]
    assert select(plan) is plan
    with pytest.raises(ConfigError, match="no stage 'bb'"):
        select(plan, only="bb")
    with pytest.raises(ConfigError, match="exclude each other"):
        select(plan, only="b", from_="b")


def test_a_part_whose_input_is_missing_says_where_to_begin(toy: Toy) -> None:
    with pytest.raises(InputError, match=r"out/a/parts.*--from a"):
        toy.plan(only="b")


def test_missing_sources_and_code_are_errors_that_name_them(made: Toy) -> None:
    shutil.rmtree(made.root / "source")
    with pytest.raises(InputError, match="source, which stage a reads, does not exist"):
        made.plan()
    made.root.joinpath("source").mkdir()
    made.write("source/1.txt", "one\n")
    (made.root / "stages/c.py").unlink()
    with pytest.raises(ConfigError, match=r"stages/c\.py, code of stage c.*make dvc-deps"):
        made.plan()


def test_a_missing_parameter_is_named(made: Toy) -> None:
    made.replace("params.yaml", "b: {deep: 1}\n", "")
    with pytest.raises(ConfigError, match="b: missing; stage b depends on it"):
        made.plan()


def test_a_damaged_lock_file_is_an_error(made: Toy) -> None:
    made.replace("dvc.lock", "stages:", "<<<<<<< HEAD\nstages:")
    with pytest.raises(ConfigError, match=r"dvc\.lock"):
        made.plan()


def test_without_git_or_dvc_the_error_says_what_to_do(made: Toy) -> None:
    shutil.rmtree(made.root / ".git")
    with pytest.raises(EnvironmentFailureError, match="git clone"):
        made.plan()
    shutil.rmtree(made.root / ".dvc")
    with pytest.raises(EnvironmentFailureError, match=r"no \.dvc folder"):
        made.plan()


def test_the_stage_computes_the_planned_fingerprint(made: Toy) -> None:
    params = read_yaml(made.root / "params.yaml")
    for stage in made.plan().stages:
        identity, md5s = stage_fingerprint(made.root, stage.stage, params)
        assert identity == stage.fingerprint
        assert None not in md5s.values()


def test_a_plan_can_be_made_while_a_stage_runs(made: Toy) -> None:
    started, go_on = made.root / "started", made.root / "go_on"
    os.mkfifo(started)
    os.mkfifo(go_on)
    made.replace(
        "dvc.yaml",
        f"cmd: {sys.executable} tool.py b",
        "cmd: echo yes > started; cat go_on > out/b.txt; echo > out/b.record",
    )
    running = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-s", "b"], cwd=made.root)
    try:
        assert started.read_text() == "yes\n"  # the command is under way, its outputs are write-locked
        assert "out/b.txt" in (made.root / ".dvc/tmp/rwlock").read_text()
        plan = made.plan()
        assert {s.stage: s.action for s in plan.stages} == {"a": "skip", "b": "run", "c": "run"}
        assert plan["b"].edited == ()
    finally:
        go_on.write_text("done\n")
        assert running.wait(60) == 0
    assert made.actions() == {"a": "skip", "b": "skip", "c": "run"}


def test_a_plan_can_be_made_while_dvc_holds_its_global_lock(made: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc_graph, "_LOCK_WAIT_SECONDS", 0.0)
    with (made.root / ".dvc/tmp/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert set(made.actions().values()) == {"skip"}


def test_another_torch_version_is_a_warning_for_a_skipped_stage(made: Toy) -> None:
    folder = made.root / ".state/b" / str(made.plan()["b"].fingerprint)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"versions": {"torch": "1.0"}}))
    [warning] = made.plan().warnings
    assert warning.startswith("b: made with torch 1.0")


def test_the_table_fits_in_100_columns_and_groups_code(made: Toy) -> None:
    made.replace("dvc.yaml", "stages/c.py", ", ".join(["stages/c.py", *(f"stages/extra_{i}.py" for i in range(9))]))
    for i in range(9):
        made.write(f"stages/extra_{i}.py", "")
    made.replace("params.yaml", "0.9", "1e-5")
    made.replace("params.yaml", "deep: 1", "deep: 2")
    lines = render_plan(made.plan())
    assert max(map(len, lines)) <= 100
    assert lines[0] == "skip    a  unchanged"
    assert lines[1] == "run     b  b.deep 1 -> 2"
    text = " ".join(line.strip() for line in lines[2:4])
    assert text.startswith("run     c  c.opt.beta 0.9 -> 1e-5; code new: stages/extra_0.py")
    assert "and 6 more" in text
    assert lines[-1] == "2 to run, 1 unchanged."


def test_a_corpus_in_the_pipelines_own_folders_is_refused(made: Toy) -> None:
    params = read_yaml(made.root / "params.yaml")
    for folder in ("outputs/ingest", ".", ".."):
        with pytest.raises(InputError, match="which the pipeline writes"):
            make_plan(made.root, {**params, "ingest": {"sources": folder}})
