from __future__ import annotations

from collections import Counter

from fact_corpus import document
from hypothesis import given
from hypothesis import strategies as st

from stages.synthesis.markdown import Line
from stages.synthesis.phrasing import scale_note
from stages.synthesis.table_facts import table_facts
from stages.synthesis.tables import MAX_ROWS, read_tables, split_row

FILING = """## Statements (in millions)

| | Years ended | |
|---|---|---|
| | September 28,2024 | September 30,2023 |
| Net sales: | | |
| Products | $294,866 | $298,085 |
| Services | 96,169 | 85,200 |
| Total net sales | 391,035 | 383,285 |
| Cost of sales: | | |
| Products | 185,233 | 189,282 |
| Other income/(expense), net | (565) | 269 |
"""


def facts_of(body):
    doc = document("Annual report", body)
    dropped = []
    return doc, {(f.attribute, f.period): f for f in table_facts(doc, "Apple Inc.", dropped)}, dropped


def test_cells_are_typed_and_their_spans_are_exact():
    doc, facts, _ = facts_of(FILING)
    services = facts["Services", "Years ended September 28, 2024"]
    assert services.quantity.value == 96169
    assert doc.text[services.start : services.end] == "96,169"
    assert facts["Other income/(expense), net", "Years ended September 28, 2024"].quantity.value == -565
    assert services.scale == "in millions"
    for fact in facts.values():
        assert doc.text[fact.start : fact.end] == fact.text
        for item in fact.evidence:
            assert item.quote == doc.text[item.start : item.end]


def test_rows_of_one_name_are_told_apart_by_their_section():
    _, facts, _ = facts_of(FILING)
    assert facts["Net sales: Products", "Years ended September 28, 2024"].quantity.value == 294866
    assert facts["Cost of sales: Products", "Years ended September 28, 2024"].quantity.value == 185233
    assert ("Products", "Years ended September 28, 2024") not in facts


def test_a_cell_is_dropped_if_another_table_says_something_else():
    percent = "\n\nPercent of sales\n\n| | Years ended | |\n|---|---|---|\n| | September 28,2024 | 2023 |\n| Services | 25% | 22% |\n"
    _, facts, dropped = facts_of(FILING + percent)
    assert ("Services", "Years ended September 28, 2024") not in facts
    assert ("Services", "Years ended 2023") in facts  # named differently there
    assert Counter(d.reason for d in dropped)["ambiguous_cell"] == 1


def test_a_row_of_another_width_is_dropped_and_counted():
    _, facts, dropped = facts_of("| A | x | y |\n|---|---|---|\n| first | 1 | 2 |\n| merged | 3 |\n| third | 5 | 6 |\n")
    assert {name for name, _ in facts} == {"first", "third"}
    assert [d.reason for d in dropped] == ["ragged_row"]


def test_a_table_without_header_gives_no_facts():
    _, facts, _ = facts_of("| Thereafter | $1,000 |\n|---|---|\n| 2026 and later | 8,000 |\n")
    assert facts == {}


def test_columns_of_one_name_are_not_asked_for():
    _, facts, _ = facts_of("| Region | 2024 | Change | Change |\n|---|---|---|---|\n| Japan | 25,052 | 3% | 7% |\n")
    assert set(facts) == {("Japan", "2024")}


def test_an_escaped_bar_belongs_to_its_cell():
    cells = split_row(Line(10, r"| a \| b | 5 |"))
    assert [cell.text for cell in cells] == [r"a \| b", "5"]
    assert cells[1].start == 10 + r"| a \| b | 5 |".index("5")


def test_a_table_of_100_000_rows_is_cut_and_noted():
    body = "| Name | Number |\n|---|---|\n" + "".join(f"| row x{i} | {i + 3000} |\n" for i in range(100_000))
    doc = document("Long", body)
    dropped = []
    tables = list(read_tables(doc, dropped))
    assert [len(table.rows) for table in tables] == [MAX_ROWS]
    assert [d.reason for d in dropped] == ["long_table"]


def test_a_megabyte_line_and_a_thousand_columns_are_skipped():
    doc, facts, _ = facts_of("| " + "x" * 1_000_000 + " | 5 |\n|---|---|\n| row | 6 |\n\n" + "|a" * 900 + "|\n")
    assert facts == {}
    assert len(doc.text) > 1_000_000


@given(st.lists(st.text(alphabet="|-: \\a1\n`#", max_size=20), max_size=12))
def test_any_lines_give_exact_spans_or_nothing(lines):
    doc = document("Odd", "\n".join(lines))
    for fact in table_facts(doc, "Odd", []):
        assert doc.text[fact.start : fact.end] == fact.text


def test_the_scale_is_not_said_of_shares():
    _, facts, _ = facts_of(FILING + "| Earnings per share | 6.11 | 6.16 |\n")
    column = "Years ended September 28, 2024"
    assert scale_note(facts["Services", column]) == " (in millions)"
    assert scale_note(facts["Earnings per share", column]) == ""
