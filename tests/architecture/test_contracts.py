"""The rules of the design as tests: layers, one DAG in three files, generated code dependencies, light imports."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.catalog import BENCHMARKS, CATALOG, CORPUS, TASKS, StageSpec
from flows.dvc_deps import CodeGraph, code_deps, group_deps, updated_dvc_yaml
from flows.dvc_graph import Dag, DagStage
from flows.params import load_params
from flows.schema import described_fields
from flows.yaml_io import flatten
from stages.common.records import TaskType

PROJECT = Path(__file__).parents[2]
LIGHT = (
    ["flows.cli", "flows.plan", "flows.plan_table", "flows.params", "flows.status"]
    + [spec.run_module for spec in CATALOG.values() if not spec.uses_model]
    + [spec.config.split(":")[0] for spec in CATALOG.values()]
)
HEAVY = ("torch", "transformers", "prefect", "mlflow", "deepspeed", "vllm")


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> Dag:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        return Dag(PROJECT, load_params(PROJECT / "params.yaml"))


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlinter.cli import lint_imports

    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "path", [str(PROJECT), *sys.path])
    assert lint_imports(no_cache=True, no_logo=True) == 0, capsys.readouterr().out


def test_dvc_yaml_and_the_catalog_name_the_same_stages(dag: Dag) -> None:
    assert set(dag.stages) == set(CATALOG)


@pytest.mark.parametrize("spec", CATALOG.values(), ids=CATALOG)
def test_dvc_yaml_and_the_catalog_say_the_same_of_a_stage(dag: Dag, corpus: str, spec: StageSpec) -> None:
    stage = dag.stages[spec.name]
    assert stage.command == f"python -m flows.stage {spec.name}"
    assert sorted(stage.parameters) == sorted(spec.params.values())
    filled = {CORPUS: corpus, BENCHMARKS: "data/benchmarks"}
    assert _data_deps(stage) == {filled.get(path, path) for path in spec.inputs.values()}
    folder = spec.folder.as_posix()
    assert [out.path for out in stage.outs] == [f"{folder}/data", f"{folder}/record.json"]


@pytest.fixture(scope="module")
def corpus() -> str:
    return str(load_params(PROJECT / "params.yaml")["ingest"]["sources"])


def _data_deps(stage: DagStage) -> set[str]:
    return {dep.path for dep in stage.deps if not dep.is_code}


def test_every_input_is_made_by_a_stage_or_by_the_user(dag: Dag, corpus: str) -> None:
    for stage in dag.stages.values():
        for dep in stage.deps:
            if not dep.is_code and dep.path not in (corpus, "data/benchmarks", "data/evaluation"):
                assert dag.owner(dep.absolute) is not None, f"{stage.name} reads {dep.path}, which nobody makes"


def test_params_yaml_and_the_configuration_have_the_same_keys() -> None:
    known = set(described_fields())

    def parameter(key: str) -> str:
        head, _, _ = key.rpartition(".")
        return head if head in known else key  # an entry of a mapping

    in_file = {parameter(key) for key in flatten(load_params(PROJECT / "params.yaml"))}
    assert in_file == known


def test_every_parameter_belongs_to_a_stage(dag: Dag) -> None:
    seen = {key for stage in dag.stages.values() for key in stage.parameters}
    for key in described_fields():
        parts = key.split(".")
        prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        assert key == "profile" or prefixes & seen, f"{key} is in params.yaml, but no stage depends on it"


def test_every_parameter_is_described_in_a_sentence() -> None:
    for key, field in described_fields().items():
        assert field.description, f"{key} has no description"
        assert field.description.endswith("."), f"{key}: {field.description!r} is no sentence"
        assert field.is_required(), f"{key} has a default in code; params.yaml is the only truth"


def test_every_parameter_is_read_somewhere() -> None:
    read = set()
    for path in [*(PROJECT / "stages").rglob("*.py"), *(PROJECT / "flows").glob("*.py")]:
        if path.name != "config.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            # `AdamW(**config.model_dump())` and getattr with a literal also read
            read |= {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    unread = [key for key in described_fields() if key.rpartition(".")[2] not in read]
    assert unread == []


def test_the_catalog_knows_the_task_types_of_the_records() -> None:
    assert set(TASKS) == {task.value for task in TaskType}


def test_code_dependencies_are_the_imports(dag: Dag) -> None:
    groups, missing = group_deps(PROJECT)
    assert missing == []
    for stage in dag.stages.values():
        in_file = {dep.path for dep in stage.deps if dep.is_code}
        assert in_file == set(groups[stage.name.split("@")[0]]), f"{stage.name}: run `make dvc-deps`"
    assert updated_dvc_yaml(PROJECT, groups) == (PROJECT / "dvc.yaml").read_text(encoding="utf-8")


def test_no_file_in_stages_is_read_unnamed() -> None:
    assert CodeGraph(PROJECT).unnamed_data_files() == []


def test_ingest_shares_no_code_of_its_own_with_others() -> None:
    graph = CodeGraph(PROJECT)
    for spec in CATALOG.values():
        if spec.name != "ingest":
            assert not [file for file in code_deps(PROJECT, spec, graph) if file.startswith("stages/ingest/")], (
                spec.name
            )


@pytest.fixture(scope="module")
def loaded_by_light_modules() -> dict[str, list[str]]:
    """Light module -> heavy packages that it brought in (one process; each module sees what came before it)."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {sorted(set(LIGHT))!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "print(json.dumps(found))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", sorted(set(LIGHT)))
def test_light_modules_load_nothing_heavy(loaded_by_light_modules: dict[str, list[str]], module: str) -> None:
    assert loaded_by_light_modules[module] == []
