"""The stage with a real, tiny, random model: files, repeatability, bad inputs."""

import json

import pytest
from evaluation_examples import SAMPLES, sample, stage_config

from stages.common.errors import InputError
from stages.common.records import Span
from stages.common.storage import md5_of_folder, read_json, write_jsonl, write_model_pointer
from stages.evaluation.base import Prediction
from stages.evaluation.evaluate import run
from stages.evaluation.recording import RECORDED, Recorder
from stages.memory.config import MemoryAgentConfig
from tests.tiny_chat_model import write_tiny_model


@pytest.fixture
def stage_inputs(tmp_path, documents):
    model_data = tmp_path / "outputs" / "model" / "data"
    write_tiny_model(model_data / "model")
    write_model_pointer(model_data, model_data / "model")
    heldout = tmp_path / "heldout.jsonl"
    write_jsonl(heldout, SAMPLES)
    (tmp_path / "benchmarks").mkdir()
    return {
        "model": model_data,
        "heldout": heldout,
        "documents": tmp_path / "documents.jsonl",
        "benchmarks": tmp_path / "benchmarks",
    }


def run_stage(tmp_path, inputs, name="sft", state="state", emit=lambda step, values: None, **changes):
    out_dir = tmp_path / "runs" / name / "data"
    out_dir.mkdir(parents=True)
    (tmp_path / state).mkdir(exist_ok=True)
    counts = run(stage_config(max_output_tokens=4, **changes), inputs, out_dir, tmp_path / state, emit)
    return out_dir, counts


def test_the_stage_writes_predictions_and_scores_and_repeats_its_bytes(tmp_path, stage_inputs):
    emitted = []
    # Four output tokens are fewer than a recall answer has, so there is no such question.
    out_dir, counts = run_stage(tmp_path, stage_inputs, emit=lambda step, values: emitted.append((step, values)))
    assert sorted(path.name for path in out_dir.iterdir()) == ["predictions.jsonl", "scores.json"]
    rows = [json.loads(line) for line in (out_dir / "predictions.jsonl").read_text().splitlines()]
    assert [sorted(row) for row in rows] == [
        sorted(
            [
                "benchmark",
                "mode",
                "sample_id",
                "sample",
                "task_type",
                "question",
                "gold",
                "prediction",
                "metric",
                "score",
                "rule_score",
                "metrics",
                "judge",
                "failure",
                "finish_reason",
                "prompt_tokens",
                "response_tokens",
                "context_tokens",
                "context_cut",
                "turns",
                "evidence_position",
                "groups",
            ]
        )
    ] * 12
    scores = read_json(out_dir / "scores.json")
    assert scores["model"] == "sft"
    assert [(row["benchmark"], row["mode"], row["n"]) for row in scores["scores"]] == [
        ("heldout/multi_hop", "full_context", 3),
        ("heldout/numerical", "full_context", 1),
        ("needle/200", "full_context", 2),
        ("needle/400", "full_context", 2),
        ("heldout/multi_hop", "memory_agent", 1),
        ("heldout/numerical", "memory_agent", 1),
        ("heldout/multiple_choice", "memory_agent", 1),
        ("needle/400", "memory_agent", 1),
    ]
    assert counts["questions"] == 12
    assert counts["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows)
    assert str(tmp_path) not in (out_dir / "scores.json").read_text()
    step, progress = emitted[0]
    assert (step, progress["progress/prompts"]) == (12, 12.0)
    assert progress["progress/tokens"] == sum(row["prompt_tokens"] + row["response_tokens"] for row in rows)
    assert "score/needle/400/memory_agent" in emitted[-1][1]
    again, _ = run_stage(tmp_path, stage_inputs, name="again/sft", state="other_state")
    assert md5_of_folder(out_dir) == md5_of_folder(again)


def test_a_broken_heldout_row_is_named(tmp_path, stage_inputs):
    stage_inputs["heldout"].write_text(SAMPLES[0].model_dump_json() + '\n{"id": "x"}\n')
    with pytest.raises(InputError, match=r"heldout.jsonl: record 2 is no Sample"):
        run_stage(tmp_path, stage_inputs)


def test_a_heldout_row_of_another_corpus_is_refused(tmp_path, stage_inputs):
    stray = sample(1, context=[Span(document_id="general/none", start=0, end=5)])
    write_jsonl(stage_inputs["heldout"], [stray])
    with pytest.raises(InputError, match="no document 'general/none'"):
        run_stage(tmp_path, stage_inputs)


def test_lengths_that_the_window_cannot_hold_are_refused(tmp_path, stage_inputs):
    agent = MemoryAgentConfig(
        chunk_tokens=4000,
        memory_tokens=40,
        turn_tokens=60,
        answer_tokens=30,
        prompt_order="memory_first",
        split_question="rules",
    )
    with pytest.raises(InputError, match="window has 2048"):
        run_stage(tmp_path, stage_inputs, agent=agent)


def test_no_heldout_questions_at_all_still_gives_the_other_benchmarks(tmp_path, stage_inputs):
    stage_inputs["heldout"].write_text("")
    out_dir, counts = run_stage(tmp_path, stage_inputs)
    assert counts["questions"] == 5
    assert {row["benchmark"] for row in read_json(out_dir / "scores.json")["scores"]} == {"needle/200", "needle/400"}


class Recording:
    """An `emit` that takes trajectories too, as the spool of a stage does."""

    def __init__(self):
        self.trajectories = []

    def __call__(self, step, metrics):
        pass

    def trajectory(self, record):
        self.trajectories.append(json.loads(json.dumps(record)))


def test_what_the_agent_read_is_recorded_with_its_score_and_the_outputs_stay_as_they_are(tmp_path, stage_inputs):
    emit = Recording()
    out_dir, _ = run_stage(tmp_path, stage_inputs, emit=emit, samples=2)
    plain, _ = run_stage(tmp_path, stage_inputs, name="other/sft", state="other", samples=2)
    rows = [json.loads(line) for line in (out_dir / "predictions.jsonl").read_text().splitlines()]
    assert (plain / "predictions.jsonl").read_bytes() == (out_dir / "predictions.jsonl").read_bytes()
    agent = [row for row in rows if row["mode"] == "memory_agent" and row["sample"] == 0]
    assert [record["key"] for record in emit.trajectories] == [
        f"{row['benchmark']}/memory_agent/{row['sample_id']}" for row in agent
    ]
    assert agent
    for record, row in zip(emit.trajectories, agent, strict=True):
        told = record["attributes"]
        assert (told["sample_id"], told["benchmark"], told["rule_score"]) == (
            row["sample_id"], row["benchmark"], row["rule_score"],
        )  # fmt: skip
        assert (told["turns"], told["prompt_tokens"]) == (row["turns"], row["prompt_tokens"])
        assert len(record["turns"]) == row["turns"]
    # A second start finds all answers and records nothing again.
    again = Recording()
    run_stage(tmp_path, stage_inputs, name="again/sft", emit=again, samples=2)
    assert again.trajectories == []


def test_a_judges_verdict_is_told_of_the_trajectories_that_were_recorded(tmp_path, stage_inputs):
    out_dir, _ = run_stage(tmp_path, stage_inputs, samples=2)
    rows = [json.loads(line) for line in (out_dir / "predictions.jsonl").read_text().splitlines()]
    judged = [Prediction.model_validate(row | {"judge": "yes", "score": 1.0}) for row in rows[:-1]]
    judged.append(Prediction.model_validate(rows[-1]))  # one that no judge saw

    class Asked:
        def __init__(self, row):
            self.key, self.mode = (row["benchmark"], row["mode"], row["sample_id"]), row["mode"]

    emit = Recording()
    Recorder([Asked(row) for row in rows], emit).judged(judged)
    agent = [row for row in rows[:-1] if row["mode"] == "memory_agent" and row["sample"] == 0]
    assert emit.trajectories == [
        {
            "key": f"{row['benchmark']}/memory_agent/{row['sample_id']}",
            "verdict": {"judge": "yes", "score": 1.0},
        }
        for row in agent
    ]
    assert agent


def test_a_bounded_number_of_trajectories_is_recorded_spread_over_all_that_is_asked():
    class Asked:
        def __init__(self, number):
            self.key, self.mode = ("b", "memory_agent", str(number)), "memory_agent"

    def chosen(count):
        return sorted(int(key[2]) for key in Recorder([Asked(number) for number in range(count)], Recording())._chosen)

    assert chosen(0) == []
    assert chosen(RECORDED) == list(range(RECORDED))
    assert chosen(RECORDED + 1) == list(range(0, RECORDED + 1, 2))
    assert len(chosen(10_000)) <= RECORDED
    assert chosen(10_000)[-1] > 9_800
