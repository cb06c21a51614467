"""Tables of PDFs that have no rules: read where columns of numbers leave no doubt, and prose in columns stays prose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_binary_readers import line, pdf, ruled_table, text_of

from stages.ingest.pdf_columns import lines_of, may_hold_table

# Widths of Helvetica's characters in thousandths of its size, for texts that end at a given point.
WIDTHS = {" ": 278, ",": 278, ".": 278, "$": 556, "(": 333, ")": 333, "%": 889, "-": 333}
ROWS = [("Net sales", "1,234", "1,100"), ("Cost of sales", "(700)", "(650)"), ("Net income", "98", "1,087")]


def ending_at(x: float, y: float, text: str) -> str:
    width = sum(WIDTHS.get(character, 556) for character in text) * 12 / 1000
    return line(round(x - width), y, text)


def columns(rows, top=700, ends=(300, 400), step=18) -> str:
    """Labels from x = 50, numbers that end below each other."""
    drawn = ""
    for number, (label, *cells) in enumerate(rows):
        y = top - step * number
        drawn += line(50, y, label) if label else ""
        drawn += "".join(ending_at(end, y, cell) for end, cell in zip(ends, cells, strict=True) if cell)
    return drawn


HEADER = ("", "2024", "2023")
TABLE = """|  | 2024 | 2023 |
|---|---|---|
| Net sales | 1,234 | 1,100 |
| Cost of sales | (700) | (650) |
| Net income | 98 | 1,087 |"""


def test_columns_of_numbers_below_their_names_are_a_table():
    page = (
        line(50, 760, "The year in figures.") + columns([HEADER, *ROWS]) + line(50, 600, "All amounts are in millions.")
    )
    assert text_of("a.pdf", pdf(page)) == f"The year in figures.\n\n{TABLE}\n\nAll amounts are in millions."


def test_a_name_over_the_labels_and_a_label_alone_between_the_rows():
    rows = [("(in millions)", "2024", "2023"), ROWS[0], ("Expenses:", "", ""), *ROWS[1:]]
    text = text_of("a.pdf", pdf(columns(rows)))
    assert "| (in millions) | 2024 | 2023 |\n|---|---|---|\n| Net sales | 1,234 | 1,100 |\n| Expenses: |  |  |" in text


def test_a_sign_that_stands_apart_belongs_to_its_number():
    signs = line(240, 682, "$") + line(340, 682, "$")
    assert "| Net sales | $ 1,234 | $ 1,100 |" in text_of("a.pdf", pdf(columns([HEADER, *ROWS]) + signs))


def test_ruled_tables_and_others_come_in_their_order():
    page = (
        columns([HEADER, *ROWS], top=760) + ruled_table(600, [["year", "sales"], ["2023", "7"]]) + line(50, 500, "End.")
    )
    text = text_of("a.pdf", pdf(page))
    assert text == f"{TABLE}\n\n| year | sales |\n|---|---|\n| 2023 | 7 |\n\nEnd."


LEFT = [
    "The ship left the port",
    "in 1850 with 30 men",
    "and 12 guns on board,",
    "and nobody on the pier",
    "knew if it would ever",
    "come back to them.",
]
RIGHT = [
    "A second ship came in",
    "by noon; of its crew 7",
    "were ill, and in May",
    "1851 the town of 400",
    "houses had lost 52",
    "of its people to it.",
]
CONTENTS = [("Introduction", "1"), ("Methods", "12"), ("Results", "31"), ("Discussion", "58")]


def shifted(rows, shifts):
    """The table with the last column's numbers out of line."""
    drawn = columns([HEADER, *[(label, first, "") for label, first, _ in rows]])
    for number, ((_, _, last), shift) in enumerate(zip(rows, shifts, strict=True), start=1):
        drawn += ending_at(400 + shift, 700 - 18 * number, last)
    return drawn + ending_at(400, 700, "2023")


@pytest.mark.parametrize(
    "page",
    [
        "".join(
            line(50, 700 - 18 * n, left) + line(320, 700 - 18 * n, right)
            for n, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True))
        ),
        "".join(
            line(50, 700 - 18 * n, name) + ending_at(400, 700 - 18 * n, number)
            for n, (name, number) in enumerate(CONTENTS)
        ),
        columns([HEADER, *ROWS[:2]]),  # two rows
        columns(ROWS),  # nothing names the columns
        shifted(ROWS, (0, 40, -35)),
        "".join(
            line(50 + 120 * c, 700 - 18 * r, str(10 * r + c)) for r in range(5) for c in range(4)
        ),  # ticks of a plot
        "".join(
            line(
                50, 700 - 18 * n, f"In 18{n}0 there were {n} men and {n + 3} guns on the ship of 18{n}1 and 2 in 18{n}2"
            )
            for n in range(5)
        ),
        columns([HEADER, *ROWS], step=60),  # lines too far apart to be rows
        columns([("", "2024", "2023"), *[(f"{label} {'x' * 90}", a, b) for label, a, b in ROWS]], ends=(570, 590)),
    ],
    ids=["prose", "contents", "two rows", "no header", "not aligned", "ticks", "sentences", "far apart", "long labels"],
)
def test_what_may_be_something_else_stays_text(page):
    assert "|" not in text_of("a.pdf", pdf(page + line(50, 50, "The end of the page, for it must not be empty.")))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(["the", "ship", "left", "port", "1850", "30", "men,", "and", "12", "guns", "2,500", "(7)"]),
        min_size=24,
        max_size=60,
    ),
    st.integers(18, 30),
)
def test_prose_in_two_columns_with_any_numbers_is_no_table(words, per_line):
    """Justified lines begin and end at the same points, so their outer words are aligned as a table's would be."""
    chunks, current = [], ""
    for word in words:
        if len(current) + len(word) > per_line:
            chunks.append(current)
            current = ""
        current = f"{current} {word}".strip()
    half = len(chunks) // 2
    page = "".join(line(50, 700 - 15 * n, text) for n, text in enumerate(chunks[:half]))
    page += "".join(ending_at(550, 700 - 15 * n, text) for n, text in enumerate(chunks[half : 2 * half]))
    text = text_of("a.pdf", pdf(page + line(50, 50, "The end of the page, for it must not be empty.")))
    assert "|" not in text
    assert "The end of the page" in text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 600), st.floats(0, 800), st.text("ab1$(", min_size=1, max_size=6)), max_size=40))
def test_every_word_of_a_page_is_in_one_cell(places):
    words = [{"text": text, "x0": x, "x1": x + 6 * len(text), "top": y, "bottom": y + 12} for x, y, text in places]
    shown = [piece for found in lines_of(words) for cell in found.cells for piece in cell.text.split()]
    assert sorted(shown) == sorted(text for _, _, text in places)


def test_the_quick_look_is_linear():
    assert not may_hold_table("word " * 400_000 + "\n" + "1 " * 400_000)
    assert may_hold_table("a 1 2\n" * 3)
    assert may_hold_table("Net sales $ 1,234 $ (1,100)\n" * 3)
