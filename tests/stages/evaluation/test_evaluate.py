"""The evaluation flow: what is asked, how it is scored, and what happens after a crash."""

import logging

import pytest
from asking_world import ask, built, planned, question, settings
from evaluation_examples import CAPITALS, SAMPLES, document, sample, stage_config

from stages.common.errors import InputError
from stages.common.records import AnswerKind, Category
from stages.common.storage import DocumentStore, write_jsonl
from stages.engines.scripted_engine import ByteTokenizer
from stages.evaluation import planning
from stages.evaluation.base import FollowUp
from stages.evaluation.benchmarks.heldout import heldout_questions
from stages.evaluation.evaluate import build_questions
from stages.evaluation.finished import FinishedAnswers
from stages.evaluation.planning import plan, units_of


def test_the_plan_says_what_is_asked_and_fewer_samples_are_fewer_questions(documents):
    asked = [(item.question.benchmark, item.mode, item.question.id) for item in built(documents)]
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
        ("heldout/multi_hop", "memory_agent", "multi_hop-1"),
        ("heldout/numerical", "memory_agent", "numerical-2"),
        ("heldout/multiple_choice", "memory_agent", "multiple_choice-4"),
        ("needle/400", "memory_agent", "needle-400-0"),
    ]
    assert len(built(documents, stage_config(questions_per_task={"multi_hop": 100}, agent_questions_per_task=0))) == 9


def full_context(planned_questions):
    return [item.question for item in planned_questions if item.mode == "full_context"]


def test_contexts_have_the_lengths_asked_for_unless_the_prompt_would_be_cut(documents):
    lengths = {q.benchmark: len(q.context()) for q in full_context(built(documents))}
    assert lengths["needle/200"] == 200
    assert lengths["needle/400"] == 400
    assert lengths["dialogue_recall/300"] == 300
    tight = {q.benchmark: len(q.context()) for q in full_context(built(documents, stage_config(max_input_tokens=500)))}
    assert tight["needle/200"] == 200
    assert tight["needle/400"] == 500 - 192


def test_needles_are_the_same_whatever_their_number_and_spread_over_the_depths(documents):
    few = [q for q in full_context(built(documents, stage_config(needle_questions=1))) if q.benchmark == "needle/200"]
    many = [q for q in full_context(built(documents, stage_config(needle_questions=5))) if q.benchmark == "needle/200"]
    assert (many[0].question, many[0].gold, many[0].context()) == (few[0].question, few[0].gold, few[0].context())
    assert len({q.evidence_position for q in many}) >= 4  # two depths may fall on the same line


def test_predictions_and_scores_by_hand(documents, tmp_path):
    asked = ask(built(documents), tmp_path)
    by_id = {(p.sample_id, p.mode): p for p in asked.evaluation.predictions}
    first = by_id["multi_hop-1", "full_context"]
    assert first.gold == "Oslo"
    assert first.prediction == "Oslo 42"
    assert first.score == first.rule_score == 1.0
    assert first.evidence_position == 0.25
    assert first.response_tokens == 8
    assert (first.sample, first.failure, first.judge, first.turns, first.context_cut) == (0, None, None, 0, False)
    assert by_id["multi_hop-5", "full_context"].score == 0.0
    assert by_id["numerical-2", "full_context"].score == 1.0
    assert by_id["needle-400-1", "full_context"].score == 1.0
    assert by_id["dialogue_recall-300-0", "full_context"].score == 0.0
    agent = by_id["multi_hop-1", "memory_agent"]
    assert agent.prediction == "Oslo 42"
    assert agent.turns == 1
    assert agent.prompt_tokens > first.prompt_tokens
    assert agent.response_tokens == len("<memory>Oslo</memory><plan>none</plan>") + 1 + 8
    assert by_id["multiple_choice-4", "memory_agent"].score == 0.0
    assert "A. Lima\nB. Oslo" in by_id["multiple_choice-4", "memory_agent"].question
    assert len(asked.engines) == 1
    assert asked.engines[0].closed
    assert len(asked.progress) == 13

    rows = {(row["benchmark"], row["mode"]): row for row in asked.evaluation.rows}
    assert rows["heldout/multi_hop", "full_context"] == {
        "benchmark": "heldout/multi_hop", "mode": "full_context", "metric": "cover_exact_match", "n": 3, "samples": 1,
        "mean": pytest.approx(2 / 3), "ci_low": pytest.approx(0.20765, abs=1e-5),
        "ci_high": pytest.approx(0.93851, abs=1e-5), "interval": "wilson", "metrics": {}, "groups": {},
        "failures": {}, "unanswered": {}, "cut_answers": 0, "context_cut": 0, "judge": None,
    }  # fmt: skip
    assert rows["needle/200", "full_context"]["metric"] == "share_contained"
    assert rows["needle/200", "full_context"]["n"] == 2
    assert rows["needle/400", "memory_agent"]["n"] == 1


def test_a_benchmark_of_several_kinds_of_answers_says_so(documents, tmp_path):
    samples = [sample(1), sample(2, kind=AnswerKind.SET, answer=["Oslo", "Lima"])]
    both = planned(*heldout_questions(samples, documents, {"multi_hop": 2}))
    (row,) = ask(both, tmp_path, script=lambda *a: "Oslo").evaluation.rows
    assert row["metric"] == "rule_score"
    assert row["mean"] == pytest.approx((1 + 2 / 3) / 2)
    (one,) = heldout_questions(samples, documents, {"multi_hop": 1})
    assert one.metric == "rule_score"  # named alike however few are asked


def test_the_prompt_is_the_one_of_training(documents, tmp_path):
    prompts = []
    ask(built(documents)[:1], tmp_path, script=lambda prompt, *rest: prompts.append(prompt) or "x")
    assert prompts == [
        f'<user>\n<documents>\n<document title="capitals">\n{CAPITALS[:100]}\n</document>\n</documents>\n\n'
        "Question 1: capital of Norway?\nAnswer with the name or phrase only.\n<assistant>\n"
    ]


def test_closed_book_prompts_hold_no_context(documents, tmp_path):
    prompts = []
    items = planned(built(documents)[0].question, mode="closed_book")
    asked = ask(items, tmp_path, script=lambda prompt, *rest: prompts.append(prompt) or "Oslo")
    assert prompts == ["<user>\nQuestion 1: capital of Norway?\nAnswer with the name or phrase only.\n<assistant>\n"]
    assert asked.evaluation.rows[0]["mode"] == "closed_book"
    assert asked.evaluation.predictions[0].context_tokens is None


def test_units_hold_one_mode_keep_the_order_and_fill_a_batch(documents, monkeypatch):
    monkeypatch.setattr(planning, "_UNIT_QUESTIONS", 4)
    items = built(documents)
    units = units_of(items, settings())
    assert [item for unit in units for item in unit] == items
    assert [len(unit) for unit in units] == [4, 4, 1, 4]
    assert [len({item.mode for item in unit}) for unit in units] == [1, 1, 1, 1]
    assert [len(unit) for unit in units_of(items, settings(samples=2))] == [1] * len(items)
    long = planned(*(question(f"q{i}", context="x" * 40_000) for i in range(5)))
    # 40,000 characters count as 10,064 tokens of prompt and 20 of answer: three rows fill 32,768.
    assert [len(unit) for unit in units_of(long, settings(max_input_tokens=20_000))] == [3, 2]


def test_after_a_crash_only_unfinished_questions_are_asked_and_the_result_is_the_same(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_UNIT_QUESTIONS", 4)
    whole = ask(built(documents), tmp_path / "whole")
    first_units = [request.prompt_ids for request in whole.requests[:8]]
    with pytest.raises(KeyboardInterrupt):
        ask(built(documents), tmp_path / "broken", limit=8)
    resumed = ask(built(documents), tmp_path / "broken")
    assert resumed.evaluation.predictions == whole.evaluation.predictions
    assert resumed.evaluation.rows == whole.evaluation.rows
    assert resumed.evaluation.asked_now == 13 - 8
    assert not any(request.prompt_ids in first_units for request in resumed.requests)
    assert len(resumed.progress) == 13
    again = ask(built(documents), tmp_path / "broken")
    assert again.evaluation.predictions == whole.evaluation.predictions
    assert again.engines == []  # nothing left: no model is loaded


@pytest.mark.parametrize("damage", ["torn", "garbage", "half of a batch"])
def test_a_damaged_state_file_costs_what_is_damaged(documents, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(planning, "_UNIT_QUESTIONS", 4)
    whole = ask(built(documents), tmp_path)
    (path,) = tmp_path.glob("answers-*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    broken = {"torn": lines[3][:-9], "garbage": b'[{"x": 1}]\n', "half of a batch": b"[]\n"}[damage]
    path.write_bytes(b"".join(lines[:3]) + broken)
    resumed = ask(built(documents), tmp_path)
    assert resumed.evaluation.predictions == whole.evaluation.predictions
    assert resumed.evaluation.asked_now == 4
    assert path.read_bytes().endswith(lines[3])


def test_a_question_that_was_changed_is_asked_again_the_others_are_kept(documents, tmp_path):
    ask(built(documents), tmp_path)
    other = [sample(1, answer="Lima"), *SAMPLES[1:]]
    asked = ask(built(documents, samples=other), tmp_path)
    assert asked.evaluation.predictions[0].score == 0.0
    assert asked.evaluation.asked_now == 2  # in full context and by the agent
    assert ask(built(documents), tmp_path, settings(temperature=0.5)).evaluation.asked_now == 13


def test_two_evaluations_do_not_write_the_same_answers(tmp_path):
    with FinishedAnswers(tmp_path / "answers.jsonl"), pytest.raises(InputError, match="another evaluation is writing"):
        FinishedAnswers(tmp_path / "answers.jsonl")


def test_k_samples_have_seeds_of_their_own_and_a_question_counts_once(tmp_path):
    seeds = []

    def script(prompt, request, index):
        seeds.append((request.seed, index))
        return "Oslo" if index == 0 else "Lima"

    items = planned(question("q1"), question("q2", gold="Lima"), question("q3", gold="Rome"))
    evaluation = ask(items, tmp_path, settings(samples=3), script).evaluation
    assert [(p.sample_id, p.sample, p.score) for p in evaluation.predictions] == [
        ("q1", 0, 1.0), ("q1", 1, 0.0), ("q1", 2, 0.0),
        ("q2", 0, 0.0), ("q2", 1, 1.0), ("q2", 2, 1.0),
        ("q3", 0, 0.0), ("q3", 1, 0.0), ("q3", 2, 0.0),
    ]  # fmt: skip
    (row,) = evaluation.rows
    assert (row["n"], row["samples"]) == (3, 3)
    assert row["mean"] == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert len(set(seeds)) == 9
    reversed_seeds = []
    ask(
        items[::-1],
        tmp_path / "reversed",
        settings(samples=3),
        lambda p, r, i: reversed_seeds.append((r.seed, i)) or "",
    )
    assert set(reversed_seeds) == set(seeds)  # whatever else is asked, and in which order
    ask(
        items,
        tmp_path / "seeded",
        settings(samples=3, seed=99),
        lambda p, r, i: reversed_seeds.append((r.seed, i)) or "",
    )
    assert set(reversed_seeds[9:]).isdisjoint(seeds)


def test_the_judged_part_of_a_response_is_what_follows_the_reasoning(tmp_path):
    seen = []

    def scored(response):
        seen.append(response)
        return 1.0

    replies = {"q1": "<think>Oslo?</think>\n\n Oslo ", "q2": "<think>Oslo", "q3": "  \n", "q4": "Oslo "}
    items = planned(*(question(name, score=scored, answer_tokens=60) for name in replies))
    script = lambda prompt, *rest: next(reply for name, reply in replies.items() if name in prompt)  # noqa: E731
    evaluation = ask(items, tmp_path, settings(), script).evaluation
    assert seen == [" Oslo ", "Oslo "]
    assert [p.score for p in evaluation.predictions] == [1.0, 0.0, 0.0, 1.0]


def test_the_budget_is_the_benchmarks_and_room_for_reasoning_within_the_limit(tmp_path):
    items = planned(question("q1", answer_tokens=10))
    budgets = [
        ask(items, tmp_path, settings(max_output_tokens=limit, reasoning_tokens=room)).requests[0].max_tokens
        for limit, room in ((40, 0), (40, 15), (40, 100))
    ]
    assert budgets == [10, 25, 40]


def test_an_answer_prefix_opens_the_assistants_turn(tmp_path):
    prompts = []
    items = planned(question("q1", answer_prefix=" The capital is"))
    ask(items, tmp_path, script=lambda prompt, *rest: prompts.append(prompt) or " Oslo")
    assert prompts[0].endswith("<assistant>\n The capital is")


def test_a_second_call_reads_the_first_response_and_is_scored_in_its_place(tmp_path):
    follow_up = FollowUp(messages=lambda first: [{"role": "user", "content": f"Name only: {first}"}], answer_tokens=4)
    prompts = []

    def script(prompt, request, index):
        prompts.append((prompt, request.max_tokens))
        return "Oslo" if prompt.startswith("<user>\nName only") else "It must be the one at the fjord."

    evaluation = ask(planned(question("q1", follow_up=follow_up)), tmp_path, script=script).evaluation
    (prediction,) = evaluation.predictions
    assert (prediction.prediction, prediction.score) == ("Oslo", 1.0)
    assert prompts[1] == (
        "<user>\nName only: It must be the one a\n<assistant>\n",
        4,
    )  # 20 tokens of it were allowed
    assert prediction.response_tokens == 20 + 4


def test_more_metrics_and_groups_have_means_of_their_own(tmp_path):
    def make(name, gold, group):
        return question(name, gold, more_metrics={"half": lambda response: 0.5}, groups={"difficulty": group})

    items = planned(make("q1", "Oslo", "easy"), make("q2", "Lima", "hard"), make("q3", "Rome", "hard"))
    (row,) = ask(items, tmp_path, script=lambda *a: "Oslo Lima").evaluation.rows
    assert row["metrics"] == {"half": 0.5}
    assert {key: (value["n"], value["mean"]) for key, value in row["groups"]["difficulty"].items()} == {
        "easy": (1, 1.0),
        "hard": (2, 0.5),
    }


def test_the_mean_over_a_group_counts_each_of_its_values_once(tmp_path):
    def make(name, gold, kind):
        return question(name, gold, groups={"type": kind}, mean_over="type")

    items = planned(make("q1", "Oslo", "user"), make("q2", "Oslo", "user"), make("q3", "Rome", "temporal"))
    (row,) = ask(items, tmp_path, script=lambda *a: "Oslo").evaluation.rows
    assert row["mean"] == pytest.approx(2 / 3)
    assert row["metrics"] == {"mean_over_type": 0.5}


def test_pairs_count_only_where_both_were_asked_and_are_right(tmp_path):
    def make(name, gold, pair):
        return question(name, gold, pair=pair)

    items = planned(
        make("q1", "Oslo", "one"), make("q2", "Oslo", "one"), make("q3", "Oslo", "two"), make("q4", "Rome", "two"),
        make("q5", "Oslo", "half"),
    )  # fmt: skip
    (row,) = ask(items, tmp_path, script=lambda *a: "Oslo").evaluation.rows
    assert row["mean"] == pytest.approx(4 / 5)
    assert row["metrics"] == {"pair_accuracy": 0.5}


def test_a_question_that_does_not_fit_the_window_fails_alone(tmp_path):
    long = question("long", question="x" * 2000, prompt=lambda text: [{"role": "user", "content": text + "x" * 2000}])
    for mode in ("full_context", "memory_agent"):
        evaluation = ask(planned(question("q1"), long, mode=mode), tmp_path / mode).evaluation
        failures = [(p.sample_id, p.failure) for p in evaluation.predictions]
        # The agent of these settings has the window of the scripted engine, which is large.
        assert failures == (
            [("q1", None), ("long", "too_long")] if mode == "full_context" else [("q1", None), ("long", None)]
        )
    assert plan(long, "closed_book").characters == 0


def test_a_context_in_a_file_is_read_when_it_is_asked(tmp_path):
    path = tmp_path / "context.txt"
    path.write_text("The capital of Norway is Oslo.")
    prompts = []
    items = planned(question("q1", context=path))
    ask(items, tmp_path / "state", script=lambda prompt, *rest: prompts.append(prompt) or "Oslo")
    assert "Norway is Oslo." in prompts[0]
    agent = ask(planned(question("q1", context=path), mode="memory_agent"), tmp_path / "state").evaluation
    assert agent.predictions[0].turns == 1
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        planned(question("q1", context=path))


def test_side_by_side_every_question_is_kept_alone_and_the_result_is_the_same(documents, tmp_path):
    whole = ask(built(documents), tmp_path / "units")
    side = ask(built(documents), tmp_path / "side", concurrent=5)
    assert side.evaluation.predictions == whole.evaluation.predictions
    (path,) = (tmp_path / "side").glob("answers-*.jsonl")
    assert len(path.read_bytes().splitlines()) == 13
    with pytest.raises(KeyboardInterrupt):
        ask(built(documents), tmp_path / "broken", limit=7, concurrent=2)
    resumed = ask(built(documents), tmp_path / "broken", concurrent=2)
    assert 0 < resumed.evaluation.asked_now < 13
    assert resumed.evaluation.predictions == whole.evaluation.predictions


def test_a_corpus_without_conversations_has_no_recall_questions_and_says_so(tmp_path, caplog):
    path = tmp_path / "documents.jsonl"
    write_jsonl(path, [document(Category.CODE, "x", "print(1)")])
    with caplog.at_level(logging.WARNING):
        questions = build_questions(stage_config(), [], DocumentStore([path]), ByteTokenizer())
    assert questions == []
    assert "dialogue_recall/300: only 0 of 1 questions" in caplog.text
    assert "needle/200: " in caplog.text
