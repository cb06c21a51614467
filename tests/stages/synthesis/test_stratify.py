"""Splits: disjointness, preference, bins, shortfalls, bad input."""

import pytest
from sample_corpus import doc, value_sample

from stages.common.errors import ConfigError, NotEnoughDataError
from stages.common.records import Sample, Span, TaskType
from stages.common.storage import read_json, read_records, write_json, write_jsonl
from stages.synthesis import stratify
from stages.synthesis.config import StratifyStage
from stages.synthesis.splits import (
    Bins,
    SpanCounts,
    SpanIndex,
    choose_heldout,
    choose_sft,
    draw_by_bins,
    evidence_spans,
    trainable,
)


def span(start, end, document_id="d"):
    return Span(document_id=document_id, start=start, end=end)


def sample(number, task=TaskType.READING_COMPREHENSION, generator="g", context=None):
    """A sample whose evidence is a document of its own."""
    document = doc(f"d{number}", f"## H\n\nanswer {number}")
    return value_sample(
        document, "H", f"answer {number}", id=f"{task}-{number:03d}", task_type=task, generator=generator
    ).model_copy(update={} if context is None else {"context": context})


def many(count, task=TaskType.READING_COMPREHENSION, generator="g", start=0):
    return [sample(number, task, generator) for number in range(start, start + count)]


def test_overlap_is_sharing_a_character():
    index = SpanIndex([span(10, 20), span(15, 30), span(50, 60)])
    assert index.overlaps(span(29, 40))
    assert index.overlaps(span(0, 11))
    assert index.overlaps(span(0, 100))
    assert not index.overlaps(span(30, 50))
    assert not index.overlaps(span(0, 10))
    assert not index.overlaps(span(60, 70))
    assert not index.overlaps(span(15, 30, "other"))
    assert not SpanIndex([]).overlaps(span(0, 10))


def test_the_window_of_a_dialogue_counts_as_evidence():
    talk = sample(1).model_copy(update={"proof": {"window": {"document_id": "t", "start": 3, "end": 9}}})
    assert evidence_spans(talk)[1:] == [span(3, 9, "t")]


def test_heldout_prefers_look_ups_and_unchecked_samples():
    look_ups = many(10, TaskType.NUMERICAL, "numerical/lookup")
    sums = many(10, TaskType.NUMERICAL, "numerical/sum", start=10)
    checked = frozenset(s.id for s in look_ups[:4])
    chosen = choose_heldout([*sums, *look_ups], checked, {"numerical": 6}, seed=1)
    assert {s.id for s in chosen} == {s.id for s in look_ups[4:]}
    more = choose_heldout([*sums, *look_ups], checked, {"numerical": 8}, seed=1)
    assert [s.generator for s in more] == ["numerical/lookup"] * 6 + ["numerical/sum"] * 2
    assert not {s.id for s in more} & checked


def test_heldout_avoids_what_checked_samples_show():
    samples = many(4)
    shown = sample(9, context=[*sample(9).evidence, *samples[0].evidence, *samples[1].evidence])
    chosen = choose_heldout([*samples, shown], frozenset([shown.id]), {"reading_comprehension": 2}, seed=1)
    assert {s.id for s in chosen} == {samples[2].id, samples[3].id}


def test_what_shows_a_heldout_question_s_evidence_does_not_train():
    heldout = sample(0)
    same_evidence = sample(0, TaskType.NUMERICAL)
    shows_it = sample(1, context=[*sample(1).evidence, *heldout.evidence])
    clean = sample(2)
    assert trainable([heldout, same_evidence, shows_it, clean], [heldout]) == [clean]


def test_rl_prompts_come_equally_from_the_bins():
    samples = many(12)
    rates = dict(zip([s.id for s in samples], [0.0] * 8 + [0.5, 0.5, 1.0, 0.24], strict=True))
    drawn, bins = draw_by_bins(samples, rates, 6, 4, seed=1, task=TaskType.READING_COMPREHENSION)
    assert bins == Bins(available=[9, 0, 2, 1], drawn=[3, 0, 2, 1])
    assert len({s.id for s in drawn}) == 6
    everything, bins = draw_by_bins(samples, rates, 99, 4, seed=1, task=TaskType.READING_COMPREHENSION)
    assert len(everything) == 12
    assert bins.drawn == bins.available


def test_the_warm_up_is_disjoint_from_rl_where_it_can_be():
    samples = many(6)
    rl = frozenset(s.id for s in samples[:3])
    assert not {s.id for s in choose_sft(samples, rl, 3, 1, TaskType.READING_COMPREHENSION)} & rl
    assert len({s.id for s in choose_sft(samples, rl, 5, 1, TaskType.READING_COMPREHENSION)} & rl) == 2
    assert len(choose_sft(samples, rl, 50, 1, TaskType.READING_COMPREHENSION)) == 6


def test_the_warm_up_mixes_three_look_ups_with_one_other():
    pool = many(30, TaskType.NUMERICAL, "numerical/lookup") + many(30, TaskType.NUMERICAL, "numerical/sum", 30)
    chosen = choose_sft(pool, frozenset(), 20, 1, TaskType.NUMERICAL)
    assert sum(s.generator == "numerical/lookup" for s in chosen) == 15


PLAN = {
    "heldout_per_task": {str(task): 2 for task in TaskType},
    "rl_prompts_per_task": 3,
    "sft_samples_per_task": {str(task): 4 for task in TaskType},
    "bins": 2,
}


def verified(folder, samples, checked):
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "samples.jsonl", samples)
    rows = [{"id": s.id, "model_checked": s.id in checked, "pass_rate": checked.get(s.id)} for s in samples]
    write_jsonl(folder / "verification.jsonl", rows)
    write_json(
        folder / "summary.json",
        {"dropped": {"near_duplicate": 2}, "checks": {"closed_book": {"samples": 7, "attempts": 14}}},
    )
    write_json(folder / "assembled.json", {"dropped": {"evidence_too_long": 1}})
    numbers = {span.document_id for sample in samples for span in sample.context}
    texts = {document_id: "## H\n\nanswer " + document_id.partition("/d")[2] for document_id in numbers}
    write_jsonl(folder / "documents.jsonl", [doc(i.partition("/")[2], texts[i]) for i in sorted(numbers)])
    return {
        "verified": folder,
        "documents": folder / "documents.jsonl",
        "summary_assemble": folder / "assembled.json",
    }


def corpus(per_task=12):
    samples = []
    for number, task in enumerate(TaskType):
        samples += many(per_task, task, start=100 * number)
    checked = {s.id: (n % 3) / 2 for n, s in enumerate(samples) if n % per_task < 5}
    return samples, checked


def run(tmp_path, samples, checked, out="out", **changes):
    (tmp_path / out).mkdir()
    config = StratifyStage.model_validate({"stratify": {**PLAN, **changes}, "seed": 1})
    inputs = verified(tmp_path / "verified", samples, checked)
    return stratify.run(config, inputs, tmp_path / out, tmp_path, lambda step, metrics: None)


def read(tmp_path, name, out="out"):
    return read_records(tmp_path / out / f"{name}.jsonl", Sample)


def test_the_splits_have_the_planned_sizes_and_share_nothing(tmp_path):
    counts = run(tmp_path, *corpus())
    assert counts == {
        "samples": 60,
        "heldout": 10,
        "train": 15,
        "sft": 20,
        "sft_shared_with_train": 0,
        "kept_out_by_heldout": 0,
        "shortfall": 0,
    }
    ids = [{s.id for s in read(tmp_path, name)} for name in ("heldout", "train", "sft")]
    assert len(ids[0] | ids[1] | ids[2]) == 45
    index = SpanIndex(s for held in read(tmp_path, "heldout") for s in evidence_spans(held))
    shown = [s for name in ("train", "sft") for trained in read(tmp_path, name) for s in trained.context]
    assert not any(index.overlaps(s) for s in shown)


def test_rl_prompts_were_all_checked_and_the_bins_are_reported(tmp_path):
    samples, checked = corpus()
    run(tmp_path, samples, checked)
    assert {s.id for s in read(tmp_path, "train")} <= set(checked)
    bins = read_json(tmp_path / "out" / "bins.json")
    assert set(bins) == {str(task) for task in TaskType}
    for found in bins.values():
        assert found["edges"] == [0.0, 0.5, 1.0]
        assert sum(found["drawn"]) == 3
        assert sum(found["available"]) == 5


def test_too_few_samples_are_taken_as_they_are_and_counted(tmp_path, caplog):
    counts = run(tmp_path, *corpus(per_task=6))  # 5 checked and 1 not: 2 held out, 4 left
    assert counts["train"] == 15
    assert counts["sft_shared_with_train"] > 0
    assert counts["shortfall"] == 0
    counts = run(tmp_path, *corpus(per_task=6), out="more", sft_samples_per_task={"numerical": 10})
    assert counts["shortfall"] == 6
    assert "sft/numerical: 4 samples, 10 wanted" in caplog.text


def test_a_task_without_rl_prompts_is_named(tmp_path):
    samples, checked = corpus()
    unchecked = {id: rate for id, rate in checked.items() if not id.startswith("multi_hop")}
    with pytest.raises(NotEnoughDataError, match=r"multi_hop: no RL prompt is left \(12 verified samples"):
        run(tmp_path, samples, unchecked)


def test_unknown_task_names_and_negative_numbers_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"stratify\.heldout_per_task: there is no task type 'numeric'"):
        run(tmp_path, *corpus(), heldout_per_task={"numeric": 3})
    with pytest.raises(ConfigError, match=r"sft_samples_per_task\.numerical is -1"):
        run(tmp_path, *corpus(), out="again", sft_samples_per_task={"numerical": -1})


def test_two_runs_give_equal_bytes(tmp_path):
    samples, checked = corpus()
    run(tmp_path, samples, checked, out="a")
    run(tmp_path, samples, checked, out="b")
    names = [path.name for path in (tmp_path / "a").iterdir()]
    assert {"heldout.jsonl", "train.jsonl", "sft.jsonl", "bins.json", "summary.json", "datacard.md"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_context_that_shows_a_part_of_a_heldout_question_s_evidence_may_train():
    joined = sample(0).model_copy(update={"evidence": [*sample(0).evidence, *sample(1).evidence]})
    shows_one = sample(2, context=[*sample(2).evidence, *sample(0).evidence])
    shows_both = sample(3, context=[*sample(3).evidence, *sample(0).evidence, *sample(1).evidence])
    asks_the_same = sample(1, TaskType.NUMERICAL)
    assert trainable([joined, shows_one, shows_both, asks_the_same], [joined]) == [shows_one]


def test_spans_are_counted_by_overlap():
    counts = SpanCounts([span(0, 10), span(5, 20), span(20, 30)])
    assert [counts.overlapping(span(*at)) for at in ((0, 5), (5, 10), (19, 21), (30, 40))] == [1, 2, 2, 0]
    assert counts.overlapping(span(0, 10, "other")) == 0


def test_the_data_card_counts_what_there_is(tmp_path):
    run(tmp_path, *corpus())
    card = (tmp_path / "out" / "datacard.md").read_text()
    assert "60 verified samples over 60 documents" in card
    assert "| numerical | 12 | 3 | 4 | 2 |" in card
    assert "| verify | near_duplicate | 2 |" in card
    assert "| assemble | evidence_too_long | 1 |" in card
    assert "| closed_book | 7 | 14 | 0 | 0 |" in card
    for name in ("lengths", "positions", "tasks", "hops", "families", "dropped"):
        assert f"(datacard_{name}.svg)" in card
        assert (tmp_path / "out" / f"datacard_{name}.svg").read_text().count("</svg>") == 1


def test_the_data_card_reads_no_markup_from_names(tmp_path):
    samples, checked = corpus()
    evil = [s.model_copy(update={"generator": "x|<script>![](http://e)\n# "}) for s in samples]
    run(tmp_path, evil, checked)
    card = (tmp_path / "out" / "datacard.md").read_text()
    assert "<script>" not in card
    assert "![](http" not in card
    assert "<script>" not in (tmp_path / "out" / "datacard_families.svg").read_text()
