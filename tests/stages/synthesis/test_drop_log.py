"""Every candidate that a generator refuses is counted with its reason, also where only some records are kept."""

from __future__ import annotations

from collections import Counter

import pytest
from sample_corpus import doc, ingested

from stages.common.records import Dropped, QAPair
from stages.common.storage import iter_json_lines, read_json, read_records
from stages.synthesis import reading_comprehension
from stages.synthesis.config import MultiHopConfig, SynthesizeStage
from stages.synthesis.draft_checks import KEPT_PER_REASON, DraftChecks
from stages.synthesis.drafts import Draft
from stages.synthesis.drop_log import DropLog

LIMITS = {"min_hops": 2, "max_hops": 3, "min_distance_tokens": 0, "max_evidence_characters": 0, "named_entities": False}


def record(reason):
    return lambda: Dropped(reason=reason, stage="synthesize", detail="", record={})


def test_all_are_counted_and_the_first_of_each_reason_kept():
    log = DropLog(2)
    for reason in "aababbbc":
        log.add(reason, record(reason))
    assert log.counts == {"a": 3, "b": 4, "c": 1}
    assert [kept.reason for kept in log.kept] == ["a", "a", "b", "b", "c"]
    assert log.not_kept == {"a": 1, "b": 2}


def draft(**changes):
    base = {
        "paradigm": "multi_fact",
        "family": "chain",
        "domain": "country",
        "question": "Which country borders the one whose capital is Strelsau?",
        "answer": "Borduria",
        "is_number": False,
        "hops": [
            {"op": "describe", "row": {"value": "Strelsau", "attribute": "capital"}},
            {"op": "go", "to": "Ruritania"},
        ],
        "rows": [1, 2],
        "links": [],
        "kinds": [],
    }
    return Draft(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rows": [1]}, "number_of_hops"),
        ({"rows": [1, 2, 3, 4]}, "number_of_hops"),
        ({"answer": "Strelsau"}, "answer_in_question"),
        ({"hops": [{"op": "go", "to": "Strelsau"}]}, "needs_no_reading"),
    ],
)
def test_a_refused_draft_says_why(changes, reason):
    config = MultiHopConfig.model_validate({"questions": 5, "min_questions": 1, **LIMITS})
    checks = DraftChecks(None, None, config, seed=1)  # type: ignore[arg-type]  # refused before a document is read
    for _ in range(KEPT_PER_REASON + 3):
        assert not checks.offer(draft(**changes))
    selection = checks.close()
    assert {kept.reason for kept in selection.dropped} == {reason}
    assert len(selection.dropped) == KEPT_PER_REASON
    assert selection.not_kept == {reason: 3}
    assert selection.dropped[0].record["question"] == draft().question


def test_the_summary_of_a_stage_counts_what_its_file_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(reading_comprehension, "_KEPT_DROPS_PER_REASON", 2)
    profile = "# Land {0}\n\n## Coast\n\nsome {0} km\n\n## Capital\n\nTown {0}\n\n## Rivers\n\nriver {0}\n"
    documents = [doc(f"land{n}", profile.format(n)) for n in range(8)]
    config = SynthesizeStage.model_validate({"generator": {"questions": 100, "min_questions": 1}, "seed": 3})
    inputs = {"documents": ingested(tmp_path / "in", *documents) / "documents"}
    out = tmp_path / "out"
    counts = reading_comprehension.run(config, inputs, out, tmp_path, lambda step, metrics: None)
    summary = read_json(out / "summary.json")
    kept = Counter(line["reason"] for line in iter_json_lines(out / "dropped.jsonl"))
    # Three headings in eight documents: what follows the first two, asked at most twice each.
    assert summary["dropped"]["same_pattern"] > 2 == kept["same_pattern"]
    assert counts["dropped"] == sum(summary["dropped"].values())
    assert summary["dropped_records_kept"] == kept.total()
    assert len(read_records(out / "qa.jsonl", QAPair)) == counts["questions"]
