"""The evaluation flow: what is asked, how it is scored, and what happens after a crash."""

import json
import logging

import pytest
from evaluation_examples import CAPITALS, SAMPLES, SEED, document, sample, stage_config

from stages.common.records import AnswerKind, Category
from stages.common.storage import DocumentStore, write_jsonl
from stages.engines.scripted_engine import ByteTokenizer, ScriptedEngine
from stages.evaluation import asking
from stages.evaluation.asking import ask_all, chunks_of
from stages.evaluation.benchmarks.heldout import heldout_questions
from stages.evaluation.evaluate import build_questions
from stages.evaluation.scoring import score_rows


def oracle(prompt, request, index):
    """Reads the needle, says Oslo and 42 otherwise."""
    if "<section" in prompt:
        return "<memory>Oslo</memory><plan>none</plan>"
    if "magic number for" in prompt:
        return prompt.split(" is: ")[1][:7] if " is: " in prompt else "unknown"
    return "Oslo 42"


def ask(questions, state_dir, config=None, script=oracle, limit=None):
    """Predictions and the engine; stops with KeyboardInterrupt after `limit` calls of the script."""
    engines = []
    calls = []

    def counted(prompt, request, index):
        calls.append(prompt)
        if limit is not None and len(calls) > limit:
            raise KeyboardInterrupt
        return script(prompt, request, index)

    def make():
        engines.append(ScriptedEngine(counted))
        return engines[-1]

    config = config or stage_config()
    progress = []
    predictions = ask_all(make, questions, config.shared, SEED, state_dir, lambda n, p: progress.append((n, len(p))))
    return predictions, engines, progress


def built(documents, config=None, samples=SAMPLES):
    return build_questions(config or stage_config(), samples, documents, ByteTokenizer())


def test_the_plan_says_what_is_asked_and_fewer_samples_are_fewer_questions(documents):
    asked = [(q.benchmark, q.mode, q.sample.id) for q in built(documents)]
    assert asked == [
        ("heldout/multi_hop", "full_context", "multi_hop-1"),
        ("heldout/multi_hop", "full_context", "multi_hop-3"),
        ("heldout/multi_hop", "full_context", "multi_hop-5"),
        ("heldout/numerical", "full_context", "numerical-2"),
        ("needle/200", "full_context", "needle-200-0"),
        ("needle/200", "full_context", "needle-200-1"),
        ("needle/400", "full_context", "needle-400-0"),
        ("needle/400", "full_context", "needle-400-1"),
        ("dialogue_recall/300", "full_context", "dialogue_recall-300-0"),
        ("heldout/multi_hop", "agent", "multi_hop-1"),
        ("heldout/numerical", "agent", "numerical-2"),
        ("heldout/multiple_choice", "agent", "multiple_choice-4"),
        ("needle/400", "agent", "needle-400-0"),
    ]
    assert len(built(documents, stage_config(questions_per_task={"multi_hop": 100}, agent_questions_per_task=0))) == 9


def test_contexts_have_the_lengths_asked_for_unless_the_prompt_would_be_cut(documents):
    lengths = {q.benchmark: len(q.context()) for q in built(documents) if q.mode == "full_context"}
    assert lengths["needle/200"] == 200
    assert lengths["needle/400"] == 400
    assert lengths["dialogue_recall/300"] == 300
    tight = built(documents, stage_config(max_input_tokens=500))
    tight = {q.benchmark: len(q.context()) for q in tight if q.mode == "full_context"}
    assert tight["needle/200"] == 200
    assert tight["needle/400"] == 500 - 192


def test_needles_are_the_same_whatever_their_number_and_spread_over_the_depths(documents):
    few = [q for q in built(documents, stage_config(needle_questions=1)) if q.benchmark == "needle/200"]
    many = [q for q in built(documents, stage_config(needle_questions=5)) if q.benchmark == "needle/200"]
    assert many[0].sample == few[0].sample
    depths = {q.sample.proof["depth"] for q in many}
    assert len(depths) == 5


def test_predictions_and_scores_by_hand(documents, tmp_path):
    questions = built(documents)
    predictions, engines, progress = ask(questions, tmp_path / "state")
    by_id = {(p.sample_id, p.mode): p for p in predictions}
    first = by_id["multi_hop-1", "full_context"]
    assert first.gold == "Oslo"
    assert first.prediction == "Oslo 42"
    assert first.score == 1.0
    assert first.evidence_position == 0.25
    assert first.response_tokens == 8
    assert by_id["multi_hop-5", "full_context"].score == 0.0
    assert by_id["numerical-2", "full_context"].score == 1.0
    assert by_id["needle-400-1", "full_context"].score == 1.0
    assert by_id["dialogue_recall-300-0", "full_context"].score == 0.0
    agent = by_id["multi_hop-1", "agent"]
    assert agent.prediction == "Oslo 42"
    assert agent.prompt_tokens > first.prompt_tokens
    assert agent.response_tokens == len("<memory>Oslo</memory><plan>none</plan>") + 1 + 8
    assert by_id["multiple_choice-4", "agent"].score == 0.0
    assert "A. Lima\nB. Oslo" in by_id["multiple_choice-4", "agent"].question
    assert len(engines) == 1
    assert engines[0].closed
    assert progress == [(0, 9), (1, 13)]

    rows = {(row["benchmark"], row["mode"]): row for row in score_rows(questions, predictions, SEED)}
    row = rows["heldout/multi_hop", "full_context"]
    assert row == {
        "benchmark": "heldout/multi_hop", "mode": "full_context", "metric": "cover_exact_match", "n": 3,
        "mean": pytest.approx(2 / 3), "ci_low": pytest.approx(0.20765, abs=1e-5),
        "ci_high": pytest.approx(0.93851, abs=1e-5), "interval": "wilson",
    }  # fmt: skip
    assert rows["needle/200", "full_context"]["metric"] == "share_contained"
    assert rows["needle/200", "full_context"]["n"] == 2
    assert rows["needle/400", "agent"]["n"] == 1


def test_a_benchmark_of_several_kinds_of_answers_says_so(documents, tmp_path):
    samples = [sample(1), sample(2, kind=AnswerKind.SET, answer=["Oslo", "Lima"])]
    questions = heldout_questions(samples, documents, {"multi_hop": 2}, "full_context")
    predictions, _, _ = ask(questions, tmp_path / "state", script=lambda *a: "Oslo")
    (row,) = score_rows(questions, predictions, SEED)
    assert row["metric"] == "rule_score"
    assert row["mean"] == pytest.approx((1 + 2 / 3) / 2)
    (one,) = heldout_questions(samples, documents, {"multi_hop": 1}, "full_context")
    assert one.metric == "rule_score"  # named alike however few are asked


def test_the_prompt_is_the_one_of_training(documents, tmp_path):
    prompts = []
    ask(built(documents)[:1], tmp_path / "state", script=lambda prompt, *rest: prompts.append(prompt) or "x")
    assert prompts == [
        f'<user>\n<documents>\n<document title="capitals">\n{CAPITALS[:100]}\n</document>\n</documents>\n\n'
        "Question 1: capital of Norway?\nAnswer with the name or phrase only.\n<assistant>\n"
    ]


def test_chunks_hold_one_mode_and_keep_the_order(documents, monkeypatch):
    monkeypatch.setattr(asking, "CHUNK_QUESTIONS", 4)
    questions = built(documents)
    chunks = chunks_of(questions)
    assert [q for chunk in chunks for q in chunk] == questions
    assert [len(chunk) for chunk in chunks] == [4, 4, 1, 4]
    assert [len({q.mode for q in chunk}) for chunk in chunks] == [1, 1, 1, 1]


def test_after_a_crash_only_unfinished_chunks_are_asked_and_the_result_is_the_same(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "CHUNK_QUESTIONS", 4)
    whole, engines, _ = ask(built(documents), tmp_path / "whole")
    first_chunks = [request.prompt_ids for request in engines[0].requests[:8]]
    with pytest.raises(KeyboardInterrupt):
        ask(built(documents), tmp_path / "broken", limit=9 - 1)
    resumed, engines, progress = ask(built(documents), tmp_path / "broken")
    assert resumed == whole
    assert not any(request.prompt_ids in first_chunks for request in engines[0].requests)
    assert [number for number, _ in progress] == [0, 1, 2, 3]
    again, engines, _ = ask(built(documents), tmp_path / "broken")
    assert again == whole
    assert engines == []  # nothing left: no model is loaded


@pytest.mark.parametrize("damage", ["torn", "garbage", "short"])
def test_a_damaged_state_file_costs_what_is_damaged(documents, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(asking, "CHUNK_QUESTIONS", 4)
    whole, _, _ = ask(built(documents), tmp_path)
    path = tmp_path / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = {
        "torn": lines[2][:-9],
        "garbage": b'[{"x": 1}]\n',
        "short": json.dumps(json.loads(lines[2])[:2]).encode() + b"\n",
    }
    path.write_bytes(b"".join(lines[:2]) + last[damage])
    resumed, engines, _ = ask(built(documents), tmp_path)
    assert resumed == whole
    assert len(engines[0].requests) >= 5
    assert path.read_bytes() == b"".join(lines)


def test_a_state_file_of_other_questions_is_not_used(documents, tmp_path):
    ask(built(documents), tmp_path)
    other = [sample(1, answer="Lima"), *SAMPLES[1:]]
    predictions, engines, _ = ask(built(documents, samples=other), tmp_path)
    assert predictions[0].score == 0.0
    assert len(engines) == 1


def test_a_corpus_without_conversations_has_no_recall_questions_and_says_so(tmp_path, caplog):
    path = tmp_path / "documents.jsonl"
    write_jsonl(path, [document(Category.CODE, "x", "print(1)")])
    with caplog.at_level(logging.WARNING):
        questions = build_questions(stage_config(), [], DocumentStore([path]), ByteTokenizer())
    assert questions == []
    assert "dialogue_recall/300: only 0 of 1 questions" in caplog.text
    assert "needle/200: " in caplog.text
