"""Accuracy by place and length, kinds of failure, and our scores beside the paper's: hand-counted."""

from __future__ import annotations

import json

import pytest

from stages.report.answers import FAILURES_SHOWN, failure_kind, read_answers
from stages.report.load import MODELS, Prediction
from stages.report.paper import Variant
from stages.report.paper_tables import mean_of_benchmark, paper_tables
from stages.report.scores import Interval, wilson

LINKS = {f"evaluate_{model}/scores.json": f"../../evaluate/{model}/data/scores.json" for model in MODELS}


def answer(number, score=0.0, text="no idea", **values):
    return {
        "benchmark": "heldout/numerical", "mode": "full_context", "sample_id": f"q{number}", "task_type": "numerical",
        "question": "How many are there?", "gold": "12", "prediction": text, "score": score, **values,
    }  # fmt: skip


def answers_of(tmp_path, base, last):
    inputs = {}
    for model, rows in (("base", base), ("stage4", last)):
        folder = inputs[f"evaluate_{model}"] = tmp_path / model
        folder.mkdir()
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_answers(inputs)


def test_wilson_is_the_textbooks():
    interval = wilson([1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    assert (interval.mean, interval.n) == (0.5, 10)
    assert (interval.low, interval.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson([0.0, 0.0]).low == 0.0
    assert wilson([1.0]).high == 1.0


def test_accuracy_by_place_counts_a_question_once_however_many_samples_it_has(tmp_path):
    last = [
        answer(1, 1.0, evidence_position=0.0, sample=0),
        answer(1, 0.0, evidence_position=0.0, sample=1),
        answer(2, 1.0, evidence_position=0.19),
        answer(3, 1.0, evidence_position=1.0),
        answer(4, 1.0, evidence_position=0.5, mode="memory_agent"),  # the agent sees places one by one
        answer(5, 1.0, evidence_position=None),
        answer(6, 1.0, evidence_position=0.3, failure="timeout"),  # was never answered
    ]
    places = answers_of(tmp_path, [answer(1, 0.0, evidence_position=0.1)], last).by_position
    assert list(places) == ["0–20 %", "80–100 %"]
    first = places["0–20 %"]
    assert (first["stage4, full context"].mean, first["stage4, full context"].n) == (0.75, 2)
    assert (first["base, full context"].mean, first["base, full context"].n) == (0.0, 1)
    assert places["80–100 %"]["stage4, full context"].n == 1


def test_accuracy_by_length_takes_the_documents_length_and_the_prompts_only_without_an_agent(tmp_path):
    last = [
        answer(1, 1.0, context_tokens=512, prompt_tokens=90),
        answer(2, 0.0, context_tokens=1023),
        answer(3, 1.0, prompt_tokens=300),
        answer(4, 1.0, mode="memory_agent", context_tokens=3_000_000, prompt_tokens=9),
        answer(5, 1.0, mode="memory_agent", prompt_tokens=5000),
        answer(6, 1.0, mode="closed_book", context_tokens=512),
    ]
    lengths = answers_of(tmp_path, [], last).by_length
    assert list(lengths) == ["256–512", "512–1K", "2M–4M"]
    assert lengths["512–1K"] == {"stage4, full context": wilson([1.0, 0.0])}
    assert lengths["2M–4M"] == {"stage4, memory agent": wilson([1.0])}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"failure": "timeout", "prediction": ""}, "no answer: timeout"),
        ({"prediction": " \n"}, "empty"),
        ({"finish_reason": "length", "prediction": "13"}, "cut off at the output limit"),
        ({"prediction": "how many ARE there"}, "repeats the question"),
        ({"prediction": "many", "gold": "Lima"}, "another answer"),  # one word of the question is no echo
        ({"gold": "B", "prediction": "Option A."}, "another option"),
        ({"gold": "B", "prediction": "the second one"}, "names no option"),
        ({"prediction": "It is 13."}, "another number"),
        ({"prediction": "very few"}, "gives no number"),
        ({"gold": "Lima", "prediction": "Lim", "score": 0.4}, "partly right"),
        ({"gold": "Lima", "prediction": "Quito"}, "another answer"),
        ({"gold": ["Lima", "3"], "prediction": "Quito"}, "another answer"),
    ],
)
def test_a_failure_has_the_first_kind_that_fits(values, kind):
    assert failure_kind(Prediction.model_validate(answer(1) | values)) == kind


def test_failures_are_counted_and_shown_by_turns_with_their_lines(tmp_path):
    last = [answer(i, text="13") for i in range(12)] + [
        answer(20, 1.0, text="12"),
        answer(21, text="", context_cut=True),
    ]
    found = answers_of(tmp_path, [answer(3, 1.0), answer(21, 1.0), answer(22, 1.0)], last)
    assert found.asked == 14
    assert [(k.kind, k.count, k.with_cut_context, k.right_before) for k in found.kinds] == [
        ("another number", 12, 0, 1),
        ("empty", 1, 1, 1),
    ]
    assert len(found.failures) == FAILURES_SHOWN
    assert [f.line for f in found.failures] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 14]


def test_a_benchmarks_rows_count_once_each():
    table = {
        "mrcr/2/8192": {"base": Interval(0.2, 0.1, 0.3, 10)},
        "mrcr/8/8192": {"base": Interval(0.4, 0.2, 0.6, 30)},
        "longbench_v2": {"base": Interval(0.9, 0.8, 1.0, 5)},
    }
    mean = mean_of_benchmark(table, "base", "mrcr")
    assert mean.mean == pytest.approx(0.3)
    assert mean.low == pytest.approx(0.3 - (0.1**2 + 0.2**2) ** 0.5 / 2)
    assert mean.n == 40
    assert mean_of_benchmark(table, "base", "frames") is None
    assert mean_of_benchmark(table, "sft", "mrcr") is None


def test_what_is_no_part_of_the_papers_benchmark_is_not_averaged_in():
    known = {"base": Interval(0.5, 0.4, 0.6, 10)}
    other = {"base": Interval(0.0, 0.0, 0.1, 10)}
    table = {
        "longbench_v1/hotpotqa": known,
        "longbench_v1/qasper": known,
        "longbench_v1/passage_count": other,
        "longbench_v1/multifieldqa_en": other,
        "docmath/tatqa": other,
    }
    assert mean_of_benchmark(table, "base", "longbench_v1").mean == 0.5
    assert mean_of_benchmark(table, "base", "longbench_v1").n == 20
    assert mean_of_benchmark(table, "base", "docmath") is None
    assert mean_of_benchmark(table | {"docmath": known}, "base", "docmath").mean == 0.5


def test_our_scores_stand_beside_the_papers_and_are_never_averaged_with_fewer_benchmarks():
    full = {
        "heldout/numerical": {"base": Interval(0.25, 0.1, 0.4, 8), "sft": Interval(0.5, 0.3, 0.7, 8)},
        "frames": {"base": Interval(0.5, 0.4, 0.6, 20)},
    }
    agent = {"needle/4194304": {"stage4": Interval(0.75, 0.5, 0.9, 4)}}
    models, stages, memory, ablations = paper_tables(full, agent, LINKS, Variant(clipping="none"))
    base = dict(zip(models.header, models.rows[0], strict=True))
    assert base["held-out tasks"] == "25.0 [10, 40] n=8"
    assert base["Frames"] == "50.0 [40, 60] n=20"
    assert base["average of the six"] == "–"
    assert (
        "paper: Qwen3-30B-A3B-Thinking-2507",
        "–",
        "61.92",
        "62.26",
        "49.11",
        "70.27",
        "51.27",
        "71.56",
        "67.10",
    ) in models.rows
    assert stages.rows[1] == ("sft", "50.0 [30, 70] n=8", "+25.0", "–", "–")
    assert stages.rows[2] == ("stage1", "–", "–", "69.59", "+7.7")  # from the base: the paper has no warm-up
    assert memory.header[2] == "needle/4194304"
    assert memory.rows[-1] == ("stage4", "–", "75.0 [50, 90] n=4", "22.53", "14.29")
    assert models.link_of(0, 1) == "../../evaluate/base/data/scores.json"
    assert models.link_of(len(MODELS), 2) == ""  # the paper's own numbers are in no file of ours
    assert [row[2] for row in ablations.rows] == [
        "52.79",
        "56.07",
        "56.86",
        "57.45",
        "58.62",
        "57.02",
        "57.36",
        "55.56",
        "59.36",
    ]
