"""PDF, Excel, Parquet and LaTeX: tables stay tables, and broken or exploding files are dropped."""

from __future__ import annotations

import datetime
import io
import json
import zipfile

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.records import Category
from stages.ingest.discover import Unit
from stages.ingest.readers import parse
from stages.ingest.table_spans import find_tables

MAX_BYTES = 1_000_000


def read(name: str, data: bytes):
    unit = Unit(id="general/x", category=Category.GENERAL, source=name, members=(name,))
    return parse(unit, {name: data}, MAX_BYTES)


def text_of(name: str, data: bytes) -> str:
    result = read(name, data)
    assert result.problems == []
    (document,) = result.documents
    return document.text


def reason_of(name: str, data: bytes) -> str:
    result = read(name, data)
    assert result.documents == []
    (problem,) = result.problems
    return problem.reason.value


def pdf(*pages: str) -> bytes:
    """A PDF file of these content streams, Helvetica as /F."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for content in pages:
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {len(objects)} 0 R"
            " /Resources << /Font << /F 3 0 R >> >> >>"
        )
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
        f"startxref\n{len(body)}\n%%EOF"
    ).encode("latin-1")


def line(x: int, y: int, text: str) -> str:
    return f"BT /F 12 Tf {x} {y} Td ({text}) Tj ET\n"


def ruled_table(top: int, rows: list[list[str]]) -> str:
    """Cells of 100 x 20 points from x = 50, with their rules."""
    width, bottom = 100 * len(rows[0]), top - 20 * len(rows)
    drawn = "".join(f"50 {y} m {50 + width} {y} l S\n" for y in range(bottom, top + 1, 20))
    drawn += "".join(f"{x} {bottom} m {x} {top} l S\n" for x in range(50, 51 + width, 100))
    for row, cells in enumerate(rows):
        drawn += "".join(line(55 + 100 * i, top - 20 * row - 15, cell) for i, cell in enumerate(cells))
    return drawn


def test_pdf_text_and_ruled_tables_come_in_reading_order():
    page = line(50, 750, "Sales rose, as the exam-") + line(50, 730, "ple below shows.")
    page += ruled_table(700, [["Year", "Net sales"], ["2023", "1,200"], ["2024", "1,350"]])
    page += line(50, 600, "After the table.")
    assert text_of("report.pdf", pdf(page)) == (
        "Sales rose, as the example below shows.\n\n"
        "| Year | Net sales |\n|---|---|\n| 2023 | 1,200 |\n| 2024 | 1,350 |\n\n"
        "After the table."
    )


def test_pdf_running_heads_are_left_out():
    pages = [
        line(50, 780, "Annual report") + line(50, 700, f"Chapter {name} begins.") + line(50, 20, f"Page {n}")
        for n, name in enumerate(("one", "two", "three", "four"))
    ]
    text = text_of("a.pdf", pdf(*pages))
    assert text == "Chapter one begins.\n\nChapter two begins.\n\nChapter three begins.\n\nChapter four begins."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"This is no PDF at all. " * 50, "bad_pdf"),
        (b"", "bad_pdf"),
        (b"%PDF-1.7\n" + b"\0garbage" * 200, "bad_pdf"),
        (pdf(line(50, 700, "text"))[:300], "bad_pdf"),
        (pdf("50 50 m 100 100 l S"), "too_short"),  # a picture of a page
    ],
)
def test_pdfs_that_are_none_or_hold_no_text_are_dropped(data, reason):
    assert reason_of("x.pdf", data) == reason


def workbook(*rows: list[object], merge: str = "", title: str = "Sales") -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = title
    for row in rows:
        sheet.append(row)
    if merge:
        sheet.merge_cells(merge)
    book.create_sheet("Empty")
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def test_a_workbook_gives_a_table_per_block_with_merged_cells_filled():
    data = workbook(
        ["Sales (in millions)"],
        ["year", "net", None, "day"],
        [2023, 1.50, 7, datetime.date(2024, 1, 2)],
        [None, "a|b", True],
        [],
        ["a note"],
        merge="A3:A4",
    )
    assert text_of("a/my_book.xlsx", data) == (
        "# my book\n\n## Sales\n\nSales (in millions)\n\n"
        "| year | net |  | day |\n|---|---|---|---|\n| 2023 | 1.5 | 7 | 2024-01-02 |\n| 2023 | a\\|b | True |  |\n\n"
        "a note"
    )


def zip_of(name: str, size: int, template: bytes) -> bytes:
    """A workbook one of whose parts unpacks to `size` zeros."""
    data = io.BytesIO(template)
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"0" * size)
    return data.getvalue()


def test_a_zip_bomb_is_dropped_before_it_is_unpacked():
    bomb = zip_of("xl/media/bomb.bin", 200_000_000, workbook(["a", "b"], [1, 2]))
    assert len(bomb) < 300_000
    assert reason_of("x.xlsx", bomb) == "too_large"


def test_files_that_are_no_workbooks_are_dropped():
    assert reason_of("x.xlsx", b"PK\x03\x04 not really") == "bad_xlsx"
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert reason_of("x.xlsx", empty.getvalue()) == "bad_xlsx"
    entities = '<!DOCTYPE w [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9)
    )
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w") as archive:
        archive.writestr("[Content_Types].xml", entities + "]><w>&j;</w>")
    assert reason_of("x.xlsx", book.getvalue()) == "bad_xlsx"


def parquet(table: pa.Table) -> bytes:
    data = io.BytesIO()
    pq.write_table(table, data)
    return data.getvalue()


def test_parquet_is_a_table_or_a_document_a_row():
    plain = pa.table({"year": [2023, 2024], "net": [1.5, None], "tags": [["a"], []]})
    assert text_of("a/net.parquet", parquet(plain)) == (
        '# net\n\n| year | net | tags |\n|---|---|---|\n| 2023 | 1.5 | ["a"] |\n| 2024 |  | [] |'
    )
    texts = read("a/dump.parquet", parquet(pa.table({"text": ["one text", None, "# T\nthree"], "url": ["u"] * 3})))
    assert [(d.part, d.title, d.text) for d in texts.documents] == [
        (1, "dump 1", "one text"),
        (3, "T", "# T\nthree"),
    ]
    assert [problem.path for problem in texts.problems] == ["a/dump.parquet:2"]
    messages = [[{"role": "user", "content": "hi"}]]
    assert text_of("c.parquet", parquet(pa.table({"messages": messages}))) == "# c 1\n\nuser: hi"


def test_parquet_that_unpacks_beyond_the_limit_or_is_broken_is_dropped():
    runs = parquet(pa.table({"a": ["x" * 100_000] * 2000, "b": list(range(2000))}))
    assert len(runs) < 300_000
    assert reason_of("x.parquet", runs) == "too_large"
    many = parquet(pa.table({"a": pa.nulls(2_000_000, pa.int8())}))
    assert reason_of("x.parquet", many) == "too_large"
    assert reason_of("x.parquet", b"PAR1" + b"\0" * 50 + b"PAR1") == "bad_parquet"
    assert reason_of("x.parquet", b"") == "bad_parquet"


def test_latex_keeps_headings_tables_and_formulas_and_reads_no_other_file():
    source = r"""\documentclass{article}\title{On Things}\begin{document}
\section{Intro} Hello~\cite{knuth}, 50\% % a comment
\input{/etc/passwd} of $a^2$.
\begin{table}\caption{Sales (in millions)}
\begin{tabular}{lrr}\hline Year & \multicolumn{2}{c}{Net}\\ \hline 2023 & 1 & 2 \\
\multirow{2}{*}{2024} & 3 & 4 \\ & 5 \\ \end{tabular}\end{table}
\begin{itemize}\item one \item two\end{itemize}\end{document}"""
    result = read("x.tex", source.encode()).documents[0]
    assert result.title == "On Things"
    assert result.text.startswith("## Intro\n\nHello [knuth], 50%")
    assert "root:" not in result.text
    assert "$a^2$" in result.text
    assert "| Year | Net | Net |\n|---|---|---|\n| 2023 | 1 | 2 |\n| 2024 | 3 | 4 |\n| 2024 | 5 |  |" in result.text
    assert "- one\n- two" in result.text.replace(" \n", "\n")
    (table,) = find_tables(result.text)
    assert (table.caption, table.units, table.header) == ("Sales (in millions)", "in millions", ["Year", "Net", "Net"])


def test_latex_nested_beyond_reason_is_dropped():
    assert reason_of("x.tex", b"{" * 50_000) == "too_deep"


_LATEX = ("\\", "{", "}", "$", "&", "\\\\", "\\begin{tabular}{l}", "\\end{tabular}", "\\item", "\\cite", "\\section{a}",
          "\\multicolumn{2}{c}{x}", "\\multirow", "\\frac", "[", "]", "%", "\n\n", "text ", "\\verb|x", "\\caption{y}",
          "\\begin{verbatim}", "\\end{verbatim}", "\\href{u}", "\\footnote", "^", "~")  # fmt: skip


@given(st.lists(st.sampled_from(_LATEX), max_size=30))
def test_no_jumble_of_latex_crashes_the_reader(pieces):
    result = read("x.tex", "".join(pieces).encode())
    assert len(result.documents) + len(result.problems) == 1


@given(st.sampled_from([pdf(line(50, 700, "text")), workbook(["a"]), parquet(pa.table({"a": [1]}))]), st.data())
def test_no_damage_to_a_binary_file_crashes_its_reader(whole, data):
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    for name in ("x.pdf", "x.xlsx", "x.parquet"):
        result = read(name, bytes(broken))
        assert len(result.documents) + len(result.problems) >= 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"turns": [{"speaker": "Ann", "text": "hi"}]}, "Ann: hi"),
        ({"conversations": [{"from": "human", "value": "hi"}]}, "human: hi"),
        (
            {"haystack_sessions": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]],
             "haystack_dates": ["May 1"]},
            "## Session 1 (May 1)\n\nuser: a\n\n## Session 2\n\nuser: b",
        ),
        ({"sessions": [{"date": "May 2", "turns": [{"speaker": "A", "text": "c"}]}]}, "## Session 1 (May 2)\n\nA: c"),
    ],
)  # fmt: skip
def test_dialogues_of_other_shapes(value, expected):
    assert text_of("x.json", json.dumps(value).encode()) == f"# x\n\n{expected}"


def test_a_list_of_dialogues_is_a_document_each():
    value = [[{"role": "user", "content": "a"}], {"title": "T", "messages": [{"role": "user", "content": "b"}]}, []]
    result = read("x.json", json.dumps(value).encode())
    assert [(d.part, d.title) for d in result.documents] == [(1, "x 1"), (2, "T")]
    assert [problem.path for problem in result.problems] == ["x.json:3"]


@given(
    st.lists(st.lists(st.text(alphabet="ab|\\ \n1", max_size=4), min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from(["", "Before.\n\n", "Table 2. What it is\n\n", "# Head\n\n(in thousands)\n\n"]),
)
def test_every_pipe_table_is_found_where_it_stands(rows, before):
    from stages.ingest.tables import pipe_table

    rendered = pipe_table([["h", "i"], *rows])
    text = f"{before}{rendered}\n\nafter"
    (table,) = find_tables(text)
    assert text[table.start : table.end] == rendered
    assert (table.rows, table.header) == (len(rows), ["h", "i"])
    if "Table" in before:
        assert table.caption == "Table 2. What it is"
    if "#" in before:
        assert (table.caption, table.units) == ("Head", "in thousands")
