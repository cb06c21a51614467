"""The table of ablations: this run's scores stand in the base model's line and in the one line that its RL settings are."""

import itertools

import pytest

from stages.report.paper import ABLATIONS, Variant, is_line_of
from stages.report.paper_tables import paper_tables
from stages.report.scores import Interval

LINKS = {f"evaluate_{model}/scores.json": f"../../evaluate/{model}/data/scores.json"
         for model in ("base", "sft", "stage1", "stage2", "stage3", "memory", "merge", "stage4")}  # fmt: skip
SIX = ("docmath", "longbench_v2", "frames", "mrcr/2_needles", "corpus_numerical/32768", "longbench_v1/qasper")
FULL = {
    "heldout/numerical": {"base": Interval(0.1, 0.05, 0.2, 50), "stage3": Interval(0.6, 0.5, 0.7, 50)},
    **{name: {"stage3": Interval(0.3 + 0.1 * n, 0.2, 0.9, 10)} for n, name in enumerate(SIX)},
}


def table(**settings):
    *_, ablations = paper_tables(FULL, {}, LINKS, Variant(**settings))
    return ablations


def filled(ablations):
    """Variant -> the cells of this run, of the lines that have any."""
    return {row[1]: row[3:5] for row in ablations.rows if row[3] != "–"}


def test_this_runs_scores_stand_beside_the_papers():
    ablations = table(std_scope="task", aepo=True, clipping="none")
    # The mean of 0.3, 0.4, ..., 0.8 is 55.0; the base model was asked none of the six.
    assert filled(ablations) == {
        "Qwen3-4B-Thinking-2507": ("10.0 [5, 20] n=50", "–"),
        "AEPO": ("60.0 [50, 70] n=50", "55.0"),
    }
    assert [row[2] for row in ablations.rows] == [
        "52.79", "56.07", "56.86", "57.45", "58.62", "57.02", "57.36", "55.56", "59.36",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"std_scope": "group"}, "+ task-balanced sampling"),
        ({"std_scope": "batch"}, "+ std of the batch"),
        ({"std_scope": "task"}, "+ std of the task in the batch"),
        ({"std_scope": "group", "clipping": "token/high"}, "high-entropy tokens"),
        ({"std_scope": "task", "clipping": "sequence/high"}, "high-entropy sequences"),
        ({"std_scope": "task", "clipping": "token/low"}, "low-entropy tokens"),
        ({"std_scope": "none", "aepo": True}, "AEPO"),
        ({"std_scope": "none"}, None),
        ({"std_scope": "task", "clipping": "sequence/low"}, None),
        ({"std_scope": "task", "clipping": "token/high", "aepo": True}, None),  # two of them at once
    ],
)
def test_a_run_stands_in_the_line_of_its_settings(settings, line):
    lines = set(filled(table(**{"clipping": "none", "aepo": False, **settings}))) - {"Qwen3-4B-Thinking-2507"}
    assert lines == ({line} if line else set())


def test_no_run_is_two_lines_and_nobody_is_plain_grpo():
    scopes, clippings = (
        ("task", "group", "batch", "none"),
        ("none", "token/high", "token/low", "sequence/high", "sequence/low"),
    )
    for scope, aepo, clipping in itertools.product(scopes, (True, False), clippings):
        lines = [a.variant_name for a in ABLATIONS if is_line_of(a, Variant(scope, aepo, clipping))]
        assert len(lines) <= 1
        assert "GRPO" not in lines  # sampling is always balanced


def test_numbers_of_this_run_link_to_their_scores_and_the_papers_do_not():
    ablations = table(std_scope="task", aepo=True, clipping="none")
    for number, row in enumerate(ablations.rows):
        model = {"Qwen3-4B-Thinking-2507": "base", "AEPO": "stage3"}.get(row[1])
        wanted = LINKS[f"evaluate_{model}/scores.json"] if model else ""
        assert [ablations.link_of(number, column) for column in range(6)] == ["", "", "", wanted, wanted, ""]


def test_the_papers_columns_of_other_tables_link_to_nothing():
    _, by_stage, by_agent, _ = paper_tables(FULL, {}, LINKS, Variant(clipping="none"))
    for shown in (by_stage, by_agent):
        theirs = [column for column, name in enumerate(shown.header) if name.startswith("paper")]
        assert theirs
        assert not any(shown.link_of(row, column) for row in range(len(shown.rows)) for column in theirs)
        assert shown.link_of(0, 1) == LINKS["evaluate_base/scores.json"]
