"""A job's entry in dvc.lock: taken only if it is about what was sent, and nothing is lost that DVC writes meanwhile."""

import subprocess
import sys
import threading

import pytest
import yaml

from infra.ec2.dvc import LockMismatchError, lock_without, merge_lock, repository_lock
from infra.errors import InfraError

PARAMETERS = {"rl.steps": 3, "rl.rate": 1.0}
ENTRY = {
    "cmd": "python b",
    "deps": [{"path": "in", "md5": "1"}],
    "params": {"params.yaml": {"rl.steps": 3, "rl.rate": 1}},
    "outs": [{"path": "o", "md5": "2"}],
}
# What any dvc command does while it writes: DVC's own lock.
HOLD = """
import sys, pathlib
from dvc.lock import Lock
with Lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
    lock = pathlib.Path("dvc.lock")
    lock.write_text(lock.read_text() + "  c: {cmd: z}\\n")
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a: {cmd: x}\n")
    return tmp_path


def merge(root, stage="b", entry=ENTRY, **changes):
    sent = {"inputs": {"in": "1"}, "outputs": ["o"], "parameters": PARAMETERS, "command": "python b", **changes}
    merge_lock(root, stage, yaml.safe_dump({"stages": {"b": entry}}), **sent)


def stages(root):
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {"in": "9"}}, "other inputs.*in"),
        ({"inputs": {"in": "1", "too": "1"}}, "other inputs.*too"),
        ({"outputs": ["o", "p"]}, "other outputs.*p"),
        ({"entry": {**ENTRY, "outs": [*ENTRY["outs"], {"path": "../home", "md5": "3"}]}}, r"other outputs.*\.\./home"),
        ({"command": "python c"}, "asked for was"),
        ({"parameters": {**PARAMETERS, "rl.steps": 4}}, "other parameters.*rl.steps"),
        ({"parameters": {**PARAMETERS, "rl.kind": None}}, "other parameters.*rl.kind"),
        ({"parameters": {"rl.steps": 3}}, "other parameters.*rl.rate"),
        ({"stage": "z"}, "without that stage"),
    ],
)
def test_an_entry_about_something_else_than_was_sent_is_refused(root, changes, words):
    before = (root / "dvc.lock").read_text()
    with pytest.raises(LockMismatchError, match=words):
        merge(root, **changes)
    assert (root / "dvc.lock").read_text() == before


def test_an_entry_about_what_was_sent_is_put_beside_the_others(root):
    merge(root)
    assert stages(root) == {"a": {"cmd": "x"}, "b": ENTRY}


def test_a_small_number_as_dvc_writes_it_is_a_number_and_stays_one_for_dvc(root):
    from dvc.utils.serialize import load_yaml

    text = (
        "stages: {b: {cmd: python b, deps: [{path: in, md5: '1'}], params: {params.yaml: {rate: 2e-05, all: [1e-3]}}}}"
    )
    sent = {"inputs": {"in": "1"}, "outputs": [], "command": "python b"}
    with pytest.raises(LockMismatchError, match="rate"):
        merge_lock(root, "b", text, parameters={"rate": 3e-05, "all": [0.001]}, **sent)
    merge_lock(root, "b", text, parameters={"rate": 2e-05, "all": [0.001]}, **sent)
    params = load_yaml(root / "dvc.lock")["stages"]["b"]["params"]["params.yaml"]
    assert params == {"rate": 2e-05, "all": [0.001]}


def test_it_waits_for_dvc_and_loses_nothing_that_dvc_writes(root):
    (root / ".dvc" / "tmp").mkdir(parents=True)
    place = root / ".dvc" / "tmp" / "lock"
    dvc = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert dvc.stdout.readline() == "held\n"
    merging = threading.Thread(target=merge, args=(root,))
    merging.start()
    merging.join(1.0)
    assert merging.is_alive()
    assert set(stages(root)) == {"a"}
    dvc.communicate("\n", timeout=60)
    merging.join(60)
    assert set(stages(root)) == {"a", "b", "c"}


def test_a_lock_that_is_never_let_go_is_told(root, monkeypatch):
    monkeypatch.setattr("infra.ec2.dvc.LOCK_SECONDS", 0.2)
    with repository_lock(root), pytest.raises(InfraError, match="end the dvc command"):
        merge(root)


def test_a_node_gets_every_entry_but_that_of_its_own_stage(root):
    merge(root)
    assert yaml.safe_load(lock_without(root, "b")["dvc.lock"]) == {"schema": "2.0", "stages": {"a": {"cmd": "x"}}}
    assert set(stages(root)) == {"a", "b"}  # ours stays as it is
    (root / "dvc.lock").unlink()
    assert lock_without(root, "b") == {}
