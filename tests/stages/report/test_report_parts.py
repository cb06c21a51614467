"""Parts of the report: intervals, tables, text that nobody trusts, figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.report.figures import metric_panel, score_panel, with_own_ids
from stages.report.load import TRAINED, Score
from stages.report.scores import Interval, compare, mean_over_tasks, table_of
from stages.report.tables import number, tables_of_summary
from stages.report.training import first_to_last, task_keys, training_table
from stages.report.untrusted import markdown_cell, markdown_code, readable


def test_mean_over_tasks_counts_each_task_once_and_adds_limits_in_squares():
    table = {
        "heldout/a": {"m": Interval(0.5, 0.2, 0.9, 100)},
        "heldout/b": {"m": Interval(0.1, 0.1 - 0.04, 0.4, 3)},
        "needle/256": {"m": Interval(1.0, 1.0, 1.0, 5)},  # no task type: not in the mean
        "heldout/c": {"other": Interval(1.0, 1.0, 1.0, 5)},
    }
    mean = mean_over_tasks(table, "m")
    assert mean is not None
    assert mean.mean == pytest.approx(0.3)
    assert mean.low == pytest.approx(0.3 - math.hypot(0.3, 0.04) / 2)
    assert mean.high == pytest.approx(0.3 + math.hypot(0.4, 0.3) / 2)  # 0.55
    assert mean.n == 103
    assert mean_over_tasks(table, "absent") is None


def test_questions_never_asked_are_absent_not_zero():
    scores = {
        "base": [
            Score(benchmark="heldout/numerical", mode="memory_agent", n=0, mean=None),
            Score(benchmark="heldout/numerical", mode="full_context", n=0, mean=0.0),
            Score(benchmark="needle/1024", mode="full_context", n=2, mean=0.5),
            Score(benchmark="needle/256", mode="full_context", n=2, mean=0.5, ci_low=0.1, ci_high=0.9),
            Score(benchmark="heldout/multi_hop", mode="full_context", n=2, mean=0.5, ci_low=0.1, ci_high=0.9),
        ]
    }
    assert table_of(scores, "memory_agent") == {}
    assert list(table_of(scores, "full_context")) == ["heldout/multi_hop", "needle/256", "needle/1024"]


def test_intervals_that_touch_overlap_and_a_loss_is_no_gain():
    table = {
        "heldout/a": {"x": Interval(0.2, 0.1, 0.3, 9), "y": Interval(0.5, 0.3, 0.7, 9)},
        "heldout/b": {"x": Interval(0.8, 0.7, 0.9, 9), "y": Interval(0.2, 0.1, 0.3, 9)},
    }
    touching, loss = compare(table, "x", "y")
    assert not touching.clear
    assert loss.clear
    assert not loss.gained


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (272.0, "272"),
        (0.5, "0.5"),
        (-0.0, "0"),
        (1.23456e-7, "1.235e-07"),
        (None, "–"),
        ("x", "x"),
    ],
)
def test_numbers_read_well(value, text):
    assert number(value) == text


def test_summary_shows_keys_it_never_heard_of():
    tables = tables_of_summary(
        "verify",
        {
            "counts": {"kept": 3},
            "dropped": {"too_short": 1},
            "threshold": 0.5,
            "per_task": {"numerical": {"kept": 2, "extra": {"a": 1, "b": 2}}, "multi_hop": {"kept": 1}},
            "ignored": [1, 2, 3],
            "empty": {},
        },
    )
    assert [t.title for t in tables] == ["verify: counts", "verify: dropped", "verify: per task"]
    assert tables[0].rows == (("kept", "3"), ("threshold", "0.5"))
    assert tables[2].header == ("", "kept", "extra")
    assert tables[2].rows == (("numerical", "2", "1, 2"), ("multi hop", "1", "–"))


def test_long_summaries_are_cut_and_say_so():
    (table,) = tables_of_summary("ingest", {"formats": {f"f{i}": i for i in range(45)}})
    assert len(table.rows) == 40
    assert table.note == "5 more rows are in the file."


def test_first_to_last_survives_gaps():
    assert first_to_last([{"a": 0.12345678}, {}, {"a": 3.0}], "a") == "0.1235 → 3"
    assert first_to_last([{"a": 1.0}], "a") == "1"
    assert first_to_last([{"b": 1.0}], "a") == "–"


def test_masked_updates_are_counted_only_where_recorded():
    steps = [{"aepo/masking": 0.0}, {"aepo/masking": 1.0}, {"aepo/masking": 1.0}]
    table = training_table(
        {"stage1": steps, "stage2": [{"reward/mean": 0.1}]}, {f"metrics_{s}": f"../{s}" for s in TRAINED}
    )
    by_stage = {row[0]: row[table.header.index("updates masked")] for row in table.rows}
    assert by_stage["stage1"] == "2"
    assert by_stage["stage2"] == "–"


def test_task_keys_are_only_the_rewards_per_task():
    steps = [{"reward/mean": 1.0, "reward/multi_hop/mean": 1.0, "reward/numerical/mean": 0.0, "reward/a/b/mean": 1.0}]
    assert task_keys({"stage1": steps}) == {"reward/multi_hop/mean": "multi hop", "reward/numerical/mean": "numerical"}


@given(st.text(max_size=300))
def test_readable_is_one_bounded_line_without_controls(text):
    line = readable(text, limit=50)
    assert len(line) <= 50 + 3
    assert "\n" not in line
    assert "\x00" not in line
    assert "\u202e" not in line


def test_readable_keeps_head_and_tail():
    line = readable("a" * 500 + " the question", limit=60)
    assert line.startswith("a" * 40 + " … ")
    assert line.endswith("the question")


@given(st.text(alphabet="`a |", min_size=1, max_size=40))
def test_no_back_quote_run_inside_equals_the_fence(text):
    span = markdown_code(text)
    fence = span[: len(span) - len(span.lstrip("`"))] if text[0] != "`" else span.split(" ", 1)[0]
    assert span.startswith(fence)
    assert span.endswith(fence)
    inner = span[len(fence) : len(span) - len(fence)]
    assert fence not in inner
    assert inner.strip(" ") == text.strip(" ") or text.strip(" ") in inner


def test_markdown_cell_keeps_tables_whole():
    assert markdown_cell("a|b\n<b>*x*</b>") == r"a\|b &lt;b&gt;\*x\*&lt;/b&gt;"


def test_masking_is_shaded_once_per_masked_update():
    steps = [{"entropy/seq_mean": 0.2, "aepo/masking": flag} for flag in (0.0, 1.0, 1.0, 0.0)]
    series = {"entropy/seq_mean": "entropy"}
    plain = metric_panel("Entropy", {"stage1": steps}, series)
    shaded = metric_panel("Entropy", {"stage1": steps}, series, shade="aepo/masking")
    assert plain is not None
    assert shaded is not None
    assert plain.svg.count("#f1dfc8") == 0
    assert shaded.svg.count("#f1dfc8") == 2
    assert "0.2 to 0.2" in shaded.alt


def test_a_metric_nobody_recorded_gives_no_panel():
    assert metric_panel("Reward", {"sft": [{"loss/sft": 1.0}]}, {"reward/mean": "reward"}) is None


def test_labels_in_figures_are_escaped_and_never_formulas():
    panel = metric_panel("t", {"stage1": [{"a": 1.0}], "stage2": [{"b": 2.0}]}, {"a": "<b>&$x_", "b": "other"})
    assert panel is not None
    assert "&lt;b&gt;&amp;$x_" in panel.svg


def test_score_panel_draws_models_that_exist_only():
    picture = score_panel("numerical", {"full_context": {"base": Interval(0.12, 0.05, 0.19, 100)}, "memory_agent": {}})
    assert "base 12" in picture.alt
    assert picture.svg.startswith("<svg")
    assert "<metadata" not in picture.svg


def test_prefixed_ids_still_point_at_each_other():
    svg = '<svg><path id="p1"/><use xlink:href="#p1"/><g clip-path="url(#c)"/><clipPath id="c"/></svg>'
    assert with_own_ids(svg, 3) == (
        '<svg><path id="f3-p1"/><use xlink:href="#f3-p1"/><g clip-path="url(#f3-c)"/><clipPath id="f3-c"/></svg>'
    )
