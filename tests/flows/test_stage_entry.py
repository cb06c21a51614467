"""`python -m flows.stage`: what it leaves on disk, its exit codes, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flows.catalog import CATALOG, CORPUS, StageSpec
from flows.params import apply_sets, profile_params, write_params
from flows.plan import stage_fingerprint
from flows.stage import is_disk_full, main
from flows.stage_state import KEEP_RECORDS, KEEP_WHOLE, open_state, without_absolute_paths
from infra.settings import TELEMETRY_OFF
from stages.common.config import Section
from stages.common.errors import EnvironmentFailureError, InputError
from tests.integration.tree import copy_project

PROJECT = Path(__file__).parents[2]
DVC_YAML = """\
stages:
  toy:
    cmd: python -m flows.stage toy
    deps: ['${ingest.sources}', notes.txt]
    params: [ingest, report]
    outs: [outputs/toy/data, outputs/toy/record.json]
"""
Emit = Callable[[int, Mapping[str, float]], None]


def copies_notes(
    config: Section, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """A stage: `failure.txt` in the corpus says how it is to end."""
    emit(0, {"reward/mean": 0.5, "time/step_s": 0.1})
    (state_dir / "checkpoint").mkdir(exist_ok=True)
    (state_dir / "checkpoint" / "weights").write_text("heavy")
    (out_dir / "notes.txt").write_text(inputs["notes"].read_text())
    failure = inputs["corpus"] / "failure.txt"
    match failure.read_text() if failure.exists() else "":
        case "user":
            raise InputError("the notes are empty. Write some.")
        case "machine":
            raise EnvironmentFailureError("the service is down")
        case "bug":
            raise ZeroDivisionError("a bug")
        case "disk":
            raise RuntimeError("could not save") from OSError(28, "No space left on device")
        case "stop":
            os.kill(os.getpid(), signal.SIGTERM)
    return {"notes": 1}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only stage is `copies_notes`."""
    from dvc.repo import Repo

    root = tmp_path / "project"
    (root / "corpus").mkdir(parents=True)
    (root / "corpus" / "a.txt").write_text("a")
    (root / "notes.txt").write_text("hello")
    (root / "dvc.yaml").write_text(DVC_YAML)
    params = profile_params("plumbing")
    write_params(root / "params.yaml", apply_sets(params, ["ingest.sources=corpus"]))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    Repo.init(str(root)).close()
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for name in ("DVC_STAGE", "LONGFUSE_PARENT_RUN", "LONGFUSE_RUN_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    for name in (*TELEMETRY_OFF, "HF_HUB_OFFLINE"):  # set by the stage; taken back at the end of the test
        monkeypatch.setenv(name, "1")
    monkeypatch.setitem(CATALOG, "toy", toy_spec())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield root
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)
    sys.unraisablehook = hook


def toy_spec() -> StageSpec:
    return StageSpec(
        name="toy",
        config="test_stage_entry:ToyStage",
        run="test_stage_entry:copies_notes",
        params={"ingest": "ingest", "report": "report"},
        inputs={"corpus": CORPUS, "notes": "notes.txt"},
    )


class ToyStage(Section):
    ingest: dict[str, object]
    report: dict[str, object]


def state_of(root: Path) -> Path:
    from flows.params import load_params

    return root / ".state" / "toy" / stage_fingerprint(root, "toy", load_params(root / "params.yaml"))[0]


def test_a_stage_leaves_data_a_record_and_its_run(project: Path) -> None:
    (project / "outputs/toy/data").mkdir(parents=True)
    (project / "outputs/toy/data/old.txt").write_text("of an earlier run")
    assert main(["toy"]) == 0
    assert [path.name for path in (project / "outputs/toy/data").iterdir()] == ["notes.txt"]
    record = json.loads((project / "outputs/toy/record.json").read_text())
    assert record["stage"] == "toy"
    assert record["counts"] == {"notes": 1}
    assert record["inputs"]["notes"] == "5d41402abc4b2a76b9719d911017c592"  # md5 of hello
    assert record["inputs"]["corpus"].endswith(".dir")
    state = state_of(project)
    assert sorted(path.name for path in state.iterdir()) == ["metrics.spool.jsonl", "run.json"]  # no checkpoint left
    run = json.loads((state / "run.json").read_text())
    assert run["fingerprint"] == state.name
    assert run["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert run["seconds"] > 0
    lines = [json.loads(line) for line in (state / "metrics.spool.jsonl").read_text().splitlines()]
    assert lines[0]["metrics"] == {"reward/mean": 0.5, "time/step_s": 0.1}


def test_equal_inputs_give_equal_bytes_of_the_record(project: Path) -> None:
    assert main(["toy"]) == 0
    first = (project / "outputs/toy/record.json").read_bytes()
    assert main(["toy"]) == 0
    assert (project / "outputs/toy/record.json").read_bytes() == first
    assert str(project).encode() not in first


def test_a_corpus_outside_the_project_is_named_without_its_folder(project: Path) -> None:
    outside = project.parent / "papers"
    outside.mkdir()
    (outside / "a.txt").write_text("a")
    params = profile_params("plumbing")
    write_params(project / "params.yaml", apply_sets(params, corpus=outside, root=project))
    assert main(["toy"]) == 0
    record = json.loads((project / "outputs/toy/record.json").read_text())
    assert record["config"]["ingest"]["sources"] == "papers"


@pytest.mark.parametrize(
    ("failure", "code", "expected"),
    [
        ("user", 2, "Error in stage toy: the notes are empty. Write some."),
        ("machine", 3, "Stage toy failed: the service is down"),
        ("disk", 3, "the disk is full"),
    ],
)
def test_failures_are_told_without_a_traceback(
    project: Path, capsys: pytest.CaptureFixture[str], failure: str, code: int, expected: str
) -> None:
    (project / "corpus" / "failure.txt").write_text(failure)
    assert main(["toy"]) == code
    told = capsys.readouterr().err
    assert expected in told
    assert "Traceback" not in told
    assert not (project / "outputs/toy/record.json").exists()
    assert (state_of(project) / "checkpoint" / "weights").exists()  # for the next attempt


def test_a_stopped_stage_says_so(project: Path) -> None:
    (project / "corpus" / "failure.txt").write_text("stop")
    code = "import sys, test_stage_entry as t\nt.CATALOG['toy'] = t.toy_spec()\nsys.exit(t.main(['toy']))"
    path = os.pathsep.join([str(PROJECT), str(Path(__file__).parent)])
    process = start(code, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert "toy stopped by SIGTERM; the next run continues from its last checkpoint." in told
    assert "Traceback" not in told


def test_a_bug_shows_its_traceback(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "corpus" / "failure.txt").write_text("bug")
    assert main(["toy"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "ZeroDivisionError: a bug" in told


def test_wrong_parameters_and_missing_inputs_stop_before_the_outputs_are_touched(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["toy"]) == 0
    (project / "notes.txt").unlink()
    assert main(["toy"]) == 2
    assert "reads notes.txt, which does not exist" in capsys.readouterr().err
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("title:", "titel:"))
    assert main(["toy"]) == 2
    assert "report.titel: unknown key; did you mean title?" in capsys.readouterr().err
    assert (project / "outputs/toy/record.json").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["a", "b"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "usage: python -m flows.stage NAME" in capsys.readouterr().err


def test_an_unknown_stage_names_the_nearest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl@stge1"]) == 2
    assert "Did you mean 'rl@stage1'?" in capsys.readouterr().err


def test_full_disks_are_recognised_through_wrapped_errors() -> None:
    wrapped = ValueError("while saving")
    wrapped.__context__ = OSError(122, "Disk quota exceeded")
    assert is_disk_full(wrapped)
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(2, "No such file"))


def test_checkpoints_of_few_fingerprints_are_kept(tmp_path: Path) -> None:
    names = [f"{number:064x}" for number in range(KEEP_RECORDS + 5)]
    for age, name in enumerate(names):
        folder = open_state(tmp_path, "rl@stage1", name)
        assert folder == tmp_path / ".state/rl/stage1" / name
        (folder / "weights").write_text("heavy")
        (folder / "run.json").write_text("{}")
        os.utime(folder, (age, age))
    (tmp_path / ".state/rl/stage1/parsed").mkdir()  # a stage's own cache is not ours to clean
    open_state(tmp_path, "rl@stage1", names[-1])
    left = {path.name for path in (tmp_path / ".state/rl/stage1").iterdir()}
    assert left == {"parsed", *names[-KEEP_RECORDS:]}
    heavy = {path.parent.name for path in (tmp_path / ".state/rl/stage1").glob("*/weights")}
    assert heavy == set(names[-KEEP_WHOLE:])


def test_only_the_last_part_of_an_absolute_path_is_recorded() -> None:
    config = {"a": {"source": "path:/home/me/model"}, "b": ["/data/x", "data/x"], "c": "https://host/x", "d": 3}
    assert without_absolute_paths(config) == {
        "a": {"source": "path:model"},
        "b": ["x", "data/x"],
        "c": "https://host/x",
        "d": 3,
    }


# --- signals, in processes of their own

WAITS = """
import os, sys
from flows.stage_guard import Stopped, dvc_processes, end_on_signals
try:
    end_on_signals([*map(int, sys.argv[1:]), *dvc_processes()], grace_seconds=0.2)
    print("ready", flush=True)
    BLOCK
except Stopped as stop:
    print("cleaned up", flush=True)
    raise SystemExit(stop.exit_code)
"""
IN_PYTHON = "import time; time.sleep(60)"


def start(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    environment.pop("DVC_STAGE", None)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        **{"env": environment, **options},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_the_stage(number: signal.Signals, code: int) -> None:
    process = start(WAITS.replace("BLOCK", IN_PYTHON))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "cleaned up\n"
    assert process.returncode == code


SWALLOWS = """
import time
from flows.stage_guard import end_on_signals
end_on_signals(grace_seconds=0.2)
told = False
while True:
    try:
        if not told:
            told = True
            print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        pass
"""


def test_a_stage_that_swallows_the_signal_ends_after_the_grace_time() -> None:
    process = start(SWALLOWS)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 143


LOST = """
import os, signal
class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # the handler runs in here, where Python drops exceptions
            pass
Dropped()
import time; time.sleep(60)
"""


def test_a_signal_that_arrives_in_a_destructor_is_not_lost() -> None:
    process = start(
        WAITS.replace("0.2", "60").replace("    BLOCK", textwrap.indent(LOST, "    ")), stderr=subprocess.PIPE
    )
    told, errors = process.communicate(timeout=30)
    assert told == "ready\ncleaned up\n"
    assert errors == ""
    assert process.returncode == 143


@pytest.mark.skipif(sys.platform != "linux", reason="pidfd is Linux's")
def test_a_stage_ends_with_the_process_that_drives_the_run() -> None:
    driver = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = start(WAITS.replace("BLOCK", IN_PYTHON), str(driver.pid))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    driver.kill()
    driver.wait()
    assert process.communicate(timeout=30)[0] == "cleaned up\n"
    assert process.returncode == 143
    late = start(WAITS.replace("BLOCK", IN_PYTHON), str(driver.pid))  # it was gone before we looked
    assert late.communicate(timeout=30)[0] == "cleaned up\n"
    assert late.returncode == 143


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
@pytest.mark.parametrize("shell", ["", "exec "], ids=["shell in between", "no shell"])
def test_a_stage_ends_with_a_killed_dvc(tmp_path: Path, shell: str) -> None:
    """A process that looks like `dvc repro`, whose shell starts the stage; it is killed with SIGKILL."""
    script = tmp_path / "stage.py"
    script.write_text(WAITS.replace("BLOCK", IN_PYTHON))
    dvc = tmp_path / "dvc"
    dvc.write_text(
        "import subprocess, sys\n"
        f"subprocess.Popen(['/bin/sh', '-c', '{shell}{sys.executable} {script}; true']).wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "DVC_STAGE": "toy"}
    process = subprocess.Popen([sys.executable, str(dvc)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert process.stdout.read() == "cleaned up\n"  # to the end of the pipe: nobody holds it any more
    process.wait()


def test_another_dvc_stage_variable_means_nothing_without_dvc() -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "DVC_STAGE": "toy"}
    process = start(WAITS.replace("BLOCK", "print('done')"), env=environment)
    assert process.communicate(timeout=30)[0] == "ready\ndone\n"
    assert process.returncode == 0


WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Node(PathFinder):  # as if they were not installed: whoever looks for them finds nothing
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = name.partition(".")[0] in {"prefect", "mlflow", "moto"}
        return None if found else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Node
for name in ("prefect", "mlflow"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is here all the same")
from flows.stage import main
sys.exit(main(["base_model"]))
"""


@pytest.mark.slow
def test_a_stage_runs_where_only_what_a_node_with_vllm_has_can_be_imported(tmp_path):
    tree = copy_project(tmp_path / "longfuse")
    write_params(tree / "params.yaml", profile_params("plumbing"))
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tree / "outputs/base_model/data/model/model.safetensors").is_file()
