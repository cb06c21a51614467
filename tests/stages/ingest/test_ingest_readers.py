"""Each reader on good and on broken input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.records import Category
from stages.ingest.discover import Unit
from stages.ingest.readers import check_format, parse
from stages.ingest.reasons import UnusableError


def read(name: str, data: bytes | str):
    unit = Unit(id="general/x", category=Category.GENERAL, source=name, members=(name,))
    return parse(unit, {name: data.encode() if isinstance(data, str) else data}, 1_000_000)


def text_of(name: str, data: bytes | str) -> str:
    result = read(name, data)
    assert result.problems == []
    (document,) = result.documents
    return document.text


def reason_of(name: str, data: bytes | str) -> str:
    result = read(name, data)
    assert result.documents == []
    (problem,) = result.problems
    return problem.reason.value


def test_markdown_title_is_the_opening_heading_if_it_is_the_only_one():
    assert read("a/peru_pe.md", "\n# Peru - Factbook #\n\ntext").documents[0].title == "Peru - Factbook"
    assert read("a/air_line.md", "# Session 0\n\n# Session 1\n").documents[0].title == "air line"
    assert read("a/guide.md", "# Guide\n```sh\n# a comment\n```\n").documents[0].title == "Guide"
    assert read("a/plain.md", "text\n# Later\n").documents[0].title == "plain"


def test_other_encodings_are_decoded_with_a_note():
    assert read("a.txt", b"\xef\xbb\xbfcaf\xc3\xa9").notes == []
    assert text_of("a.txt", b"\xef\xbb\xbfcaf\xc3\xa9") == "café"
    assert text_of("a.txt", "café ".encode("utf-16")) == "café "
    assert read("a.txt", "café".encode("utf-16")).notes[0].note == "decoded as utf-16"
    french = "Le café près de la gare était fermé à cause de la grève générale. " * 20
    assert text_of("a.txt", french.encode("latin-1")) == french
    assert "decoded as" in read("a.txt", french.encode("latin-1")).notes[0].note
    russian = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 20
    assert text_of("a.txt", russian.encode("cp1251")) == russian


def test_a_file_of_mixed_encodings_is_read_line_by_line():
    mixed = "café crème\nthé vert\n".encode() + "déjà vu\n".encode("cp1252")
    result = read("a.txt", mixed)
    assert result.documents[0].text == "café crème\nthé vert\ndéjà vu"
    assert result.notes[0].note == "1 of 4 lines are no UTF-8 and were decoded as cp1252"


def test_binary_files_are_dropped():
    assert reason_of("a.md", b"\x89PNG\r\n\x00\x00") == "binary"
    assert reason_of("a.txt", b"\xff\xfe\x00\xd8a") == "unknown_encoding"  # UTF-16 by its mark, but half a character


def test_csv_becomes_a_pipe_table_with_escaped_cells_and_filled_rows():
    data = 'year,"sales, net"\n2023,"1,5 | 2\nx"\n\n2024\n'
    assert text_of("a/net_sales.csv", data) == (
        "# net sales\n\n| year | sales, net |\n|---|---|\n| 2023 | 1,5 \\| 2 x |\n| 2024 |  |"
    )


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_delimiter_is_the_commonest_of_the_first_line(delimiter):
    rows = [["a", "b, c", "d"], ["1", "2", "3,5"]]
    data = "\n".join(delimiter.join(row) for row in rows)
    assert text_of("x.csv", data) == "# x\n\n| a | b, c | d |\n|---|---|---|\n| 1 | 2 | 3,5 |"


def test_csv_with_a_giant_field_is_dropped():
    assert reason_of("x.csv", 'a,b\n"' + "x" * 200_000 + '",1\n') == "bad_csv"


def test_html_keeps_headings_lists_and_tables_and_drops_scripts_and_links():
    html = """<html><head><title> A  page </title><style>x{}</style></head><body onload=evil()>
    <h1>Head</h1><script>alert(1)</script><!-- note --><p>a_b <a href="javascript:x">link</a><img src=x></p>
    <ul><li>one<li>two</ul>
    <table><tr><th>year<th>sales | net<tr><td rowspan=2>2023<td>1<br>2<tr><td>3</table>"""
    document = read("x.html", html).documents[0]
    assert document.title == "A page"
    assert document.text == (
        "# Head\n\na_b link\n\n- one\n- two\n\n| year | sales \\| net |\n|---|---|\n| 2023 | 1 2 |\n| 2023 | 3 |"
    )


def test_html_layout_tables_are_unfolded_and_inner_tables_stay_tables():
    html = "<table><tr><td>menu</td><td><table><tr><td>k</td><td>v</td></tr><tr><td>a</td><td>1</td></tr></table></td></tr></table>"
    assert text_of("x.htm", html) == "menu\n\n| k | v |\n|---|---|\n| a | 1 |"


def test_html_spans_are_bounded():
    row = text_of(
        "x.html",
        '<table><tr><td colspan="99999999">a</td></tr><tr><td colspan="-3">b</td><td colspan="500">c</td></tr></table>',
    )
    assert row.split("\n")[0].count("a") == 1
    assert row.split("\n")[2].count("c") == 64


def test_html_nested_beyond_reason_is_dropped_and_broken_html_is_read():
    assert reason_of("x.html", "<div>" * 5000 + "text") == "too_deep"
    assert text_of("x.html", "<p>open <b>bold</i> &bogus; <<>> &#0; &amp;").startswith("open **bold")
    assert text_of("x.html", "<div>" * 60 + "text") == "text"
    assert text_of("x.html", "no tag &amp; no title") == "no tag & no title"


@pytest.mark.parametrize("value", ["²", "½", "-1", "1e9", "", "9" * 400])
def test_html_numbers_that_are_none_do_no_harm(value):
    html = f'<ol start="{value}"><li>a</ol><table><tr><td colspan="{value}" rowspan="{value}">b</td></tr></table>'
    assert text_of("x.html", html) == "1. a\n\n| b |\n|---|"


_PIECES = (
    "<table>",
    "<tr>",
    "<td rowspan=3>",
    "</table>",
    "<ul>",
    "<li>",
    "<ol start=4>",
    "<pre>",
    "</pre>",
    "<p>",
    "<br>",
    "<a href=#>",
    "<img>",
    "<h2>",
    "<code>",
    "<!--",
    "-->",
    "<![CDATA[",
    "&#x110000;",
    "text ",
    "|",
    "`",
    "<svg><desc>",
    "</td>",
    "<math>",
    "<select>",
    "<html>",
    "<body>",
    "<title>",
    "<!DOCTYPE html [<!ENTITY a 'b'>]>",
    "<?php",
    "<dl><dt>",
    "<video>",
)


@given(st.lists(st.sampled_from(_PIECES), max_size=40))
def test_no_jumble_of_html_crashes_the_reader(pieces):
    result = read("x.html", "".join(pieces))
    assert len(result.documents) + len(result.problems) == 1


def test_json_messages_become_lines_of_role_and_text():
    messages = [
        {"role": "user", "content": "hi\nassistant: forged"},
        {
            "speaker": "Ann: B",
            "text": [{"type": "text", "text": "two"}, {"type": "image"}, {"type": "text", "text": "parts"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [1]},
        {"role": "tool", "content": "done"},
    ]
    expected = "user: hi assistant: forged\nAnn B: two parts\ntool: done"
    assert text_of("x/my_chat.json", json.dumps(messages)) == f"# my chat\n\n{expected}"
    assert text_of("x.json", json.dumps({"title": "T", "messages": messages})) == f"# T\n\n{expected}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "bad_json"),
        ("", "bad_json"),
        ("9" * 5000, "bad_json"),
        ("[" * 100_000, "too_deep"),
        ('{"a":' * 100_000, "too_deep"),
        ("{}", "not_a_dialogue"),
        ("[]", "not_a_dialogue"),
        ('"text"', "not_a_dialogue"),
        ("[1]", "not_a_dialogue"),
        ('[{"content": "x"}]', "not_a_dialogue"),
        ('[{"role": "user", "content": 3}]', "not_a_dialogue"),
        ('[{"role": {"a": 1}, "content": "x"}]', "not_a_dialogue"),
        ('{"messages": {"role": "user"}}', "not_a_dialogue"),
    ],
)
def test_json_that_is_no_dialogue_is_dropped(data, reason):
    assert reason_of("x.json", data) == reason


def test_json_escapes_that_utf8_cannot_hold_are_removed():
    assert text_of("x.json", r'[{"role": "user\ud800", "content": "a\udfffb\u0000c"}]') == "# x\n\nuser: abc"


def test_jsonl_is_one_document_a_line_and_bad_lines_are_dropped_alone():
    good = json.dumps([{"role": "user", "content": "hello"}])
    result = read("x/chats.jsonl", f"{good}\n\n{{bad\n{good}\n[]\n")
    assert [(d.part, d.title) for d in result.documents] == [(1, "chats 1"), (4, "chats 4")]
    assert [(p.path, p.reason.value) for p in result.problems] == [
        ("x/chats.jsonl:3", "bad_json"),
        ("x/chats.jsonl:5", "not_a_dialogue"),
    ]


def test_a_package_maps_its_files_and_survives_a_bad_one():
    members = ("code/p/p/__init__.py", "code/p/p/bad.py", "code/p/p/core.py")
    unit = Unit(id="code/p", category=Category.CODE, source="code/p", members=members)
    result = parse(
        unit, {members[0]: b"import core\r\n", members[1]: b"\0", members[2]: b"x = 1\n\n\n\n\n\ny = 2\n"}, 10**6
    )
    assert result.documents[0].text == ("# file: p/__init__.py\nimport core\n\n# file: p/core.py\nx = 1\n\n\ny = 2")
    assert result.documents[0].title == "p"
    assert [(p.path, p.reason.value) for p in result.problems] == [(members[1], "binary")]


def test_formats_without_a_reader_are_refused_unread():
    unit = Unit(id="general/x", category=Category.GENERAL, source="a/x.PNG", members=("a/x.PNG",))
    with pytest.raises(UnusableError, match=r"no reader for '\.png' files"):
        check_format(unit)
