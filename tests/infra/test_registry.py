"""Model versions and prediction tables in a real sqlite store; two runs compared."""

import json
from pathlib import Path

import pytest

from flows.compare import compare, comparison_lines
from infra.mlflow_store import open_store
from infra.prediction_tables import MAX_CHARACTERS, prediction_table
from infra.registry import ALIAS, MD5_TAG, REGISTERED_NAME, FinalModel, register
from infra.settings import load_settings
from stages.common.errors import InputError


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    found = load_settings(tmp_path_factory.mktemp("tree"), {})
    open_store(found)
    return found


def new_run(settings, name, params=None, metrics=None):
    client, experiment = open_store(settings)
    run_id = client.create_run(experiment, run_name=name, tags={"longfuse.kind": "pipeline"}).info.run_id
    for key, value in (params or {}).items():
        client.log_param(run_id, key, value)
    for key, value in (metrics or {}).items():
        client.log_metric(run_id, key, value)
    client.set_terminated(run_id)
    return client, run_id


def pointer(md5):
    return {"path": "outputs/rl/stage4/data/model", "md5": md5, "fetch": "dvc pull outputs/rl/stage4/data"}


def test_a_version_points_at_the_runs_pointer_and_equal_weights_are_one_version(settings, tmp_path):
    client, first = new_run(settings, "first")
    version = register(
        client,
        first,
        FinalModel(pointer=pointer("aa"), tags={"score.x": "0.5", "lineage.sft": "f r"}, profile="my run"),
    )
    assert version == "1"
    made = client.get_model_version_by_alias(REGISTERED_NAME, ALIAS)
    assert made.source == f"runs:/{first}/model_pointer"
    assert made.run_id == first
    assert made.tags == {"score.x": "0.5", "lineage.sft": "f r", MD5_TAG: "aa"}
    assert "dvc pull outputs/rl/stage4/data" in made.description
    assert client.get_model_version_by_alias(REGISTERED_NAME, "profile-my-run").version == made.version
    local = client.download_artifacts(first, "model_pointer/pointer.json", str(tmp_path))
    assert json.loads(Path(local).read_text()) == pointer("aa")

    client, second = new_run(settings, "second")
    assert register(client, second, FinalModel(pointer=pointer("bb"))) == "2"
    assert str(client.get_model_version_by_alias(REGISTERED_NAME, ALIAS).version) == "2"
    client, third = new_run(settings, "third")
    assert register(client, third, FinalModel(pointer=pointer("aa"), tags={"score.x": "0.6"})) == "1"
    again = client.get_model_version_by_alias(REGISTERED_NAME, ALIAS)
    assert str(again.version) == "1"
    assert again.tags["score.x"] == "0.6"
    assert client.get_run(third).data.tags["registered_model"] == "longfuse version 1"


def test_predictions_become_a_table_with_a_share_for_every_benchmark(settings, tmp_path):
    path = tmp_path / "predictions.jsonl"
    rows = [
        {"benchmark": "long", "mode": "full_context", "score": 1.0, "gold": ["a", "b"], "prediction": "x" * 5000}
    ] * 1500
    rows += [{"benchmark": "short", "mode": "memory_agent", "score": 0.0, "gold": "a", "prediction": "<b>"}] * 3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = prediction_table(path)
    assert table["benchmark"].count("long") == 500
    assert table["benchmark"].count("short") == 3
    assert table["gold"][0] == '["a", "b"]'
    assert len(table["prediction"][0]) == MAX_CHARACTERS
    client, run_id = new_run(settings, "table")
    client.log_table(run_id, data=table, artifact_file="predictions.json")
    loaded = json.loads(Path(client.download_artifacts(run_id, "predictions.json", str(tmp_path))).read_text())
    assert loaded["columns"][:3] == ["benchmark", "mode", "task_type"]
    assert len(loaded["data"]) == 503
    assert prediction_table(tmp_path / "none.jsonl") is None
    path.write_text("")
    assert prediction_table(path) is None


def test_two_runs_are_compared_by_name_beginning_of_the_id_or_age(settings):
    _, left = new_run(settings, "left", {"a": "1", "b": "2"}, {"score": 0.25, "same": 1.0})
    _, right = new_run(settings, "right", {"a": "1", "b": "3", "c": "x"}, {"score": 0.75, "same": 1.0})
    found = compare(settings, "left", right[:12])
    assert found.run_ids == (left, right)
    assert found.params == {"a": ("1", "1"), "b": ("2", "3"), "c": (None, "x")}
    text = "\n".join(comparison_lines(found, everything=False))
    assert "parameters: 2 of 3 differ" in text
    assert "0.25" in text
    assert "+0.5" in text
    assert "same" not in text
    assert "same" in "\n".join(comparison_lines(found, everything=True))
    assert json.loads(found.as_json())["metrics"]["score"] == [0.25, 0.75]
    assert compare(settings, "newest~1", "newest").run_ids == (left, right)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing", "there is no run 'nothing'"),
        ("newest~99", "holds .* pipeline runs"),
        ("newest~x", "write newest, newest~1"),
    ],
)
def test_a_run_that_is_not_there_is_told(settings, reference, message):
    new_run(settings, "any")
    with pytest.raises(InputError, match=message):
        compare(settings, reference, reference)
