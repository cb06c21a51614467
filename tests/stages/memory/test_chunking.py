"""Chunks: within the limit, joined they are the document, cut where a reader would cut."""

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.common.errors import InputError
from stages.memory.chunking import iter_chunks


def count_bytes(text):
    return len(text.encode())


def count_words(text):
    return len(text.split())


def chunks_of(document, limit, count=count_bytes):
    return list(iter_chunks(document, limit, count))


def test_an_empty_document_has_no_chunks(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert chunks_of("", 10) == []
    assert chunks_of(empty, 10) == []


def test_a_short_document_is_one_chunk():
    assert chunks_of("one line\n", 100) == ["one line\n"]


def test_cuts_are_at_line_ends_if_a_line_ends_in_the_last_quarter():
    assert chunks_of("aaaaaaa\nbb cccc\ndddd", 10) == ["aaaaaaa\n", "bb cccc\n", "dddd"]


def test_else_at_sentence_ends():
    assert chunks_of("She left. He came. It rained a lot today", 20) == [
        "She left. He came. ",
        "It rained a lot ",
        "today",
    ]


def test_else_at_word_ends():
    assert chunks_of("aaaa bbbb cccc dddd eeee", 12) == ["aaaa bbbb ", "cccc dddd ", "eeee"]


def test_else_exactly_at_the_limit():
    assert chunks_of("abcdefghijklmnopqrstuvwxyz", 10) == ["abcdefghij", "klmnopqrst", "uvwxyz"]


def test_a_line_end_far_before_the_limit_is_not_used():
    # Cutting after "a\n" would waste most of the chunk.
    assert chunks_of("a\nbcdefghijklmnop", 10) == ["a\nbcdefghi", "jklmnop"]


def test_characters_of_several_tokens_are_not_split():
    assert chunks_of("äöüß", 3) == ["ä", "ö", "ü", "ß"]


def test_combining_marks_and_joined_emoji_stay_together():
    assert chunks_of("abcde\u0301fg", 5) == ["abcd", "e\u0301fg"]
    family = "👩\u200d👧"  # 4 + 3 + 4 bytes
    assert chunks_of("abcd" + family + "e", 13) == ["abcd", family + "e"]


def test_carriage_return_and_line_feed_stay_together():
    assert chunks_of("abcdefghi\r\njk", 10) == ["abcdefghi", "\r\njk"]


def test_one_character_over_the_limit_is_a_chunk_so_that_reading_goes_on():
    assert chunks_of("😀a", 2) == ["😀", "a"]


@given(st.text(max_size=400), st.integers(1, 60))
@example("\u0301" * 100, 7)
@example("\r\n" * 50, 3)
def test_chunks_joined_are_the_document_and_within_the_limit(text, limit):
    chunks = chunks_of(text, limit)
    assert "".join(chunks) == text
    assert all(chunks)
    assert all(count_bytes(chunk) <= limit or len(chunk) == 1 for chunk in chunks)


@given(st.text(alphabet="ab \n.", max_size=300), st.integers(1, 9))
def test_tokenizers_with_long_tokens_work_too(text, limit):
    chunks = chunks_of(text, limit, count_words)
    assert "".join(chunks) == text
    assert all(count_words(chunk) <= limit for chunk in chunks)


def test_a_file_gives_the_same_chunks_as_its_text_with_line_ends_untouched(tmp_path):
    text = "erste Zeile mit Umlauten äöü\r\nzweite\rdritte\n" * 5000 + "Ende 😀"
    path = tmp_path / "document.txt"
    path.write_bytes(text.encode())
    assert len(text) > 1 << 16
    from_file = chunks_of(path, 1000)
    assert from_file == chunks_of(text, 1000)
    assert "".join(from_file) == text


def test_chunks_are_at_least_three_quarters_full():
    text = "Some sentence of moderate length stands here. " * 2000
    chunks = chunks_of(text, 1000)
    assert all(730 <= count_bytes(chunk) <= 1000 for chunk in chunks[:-1])


def test_a_large_file_takes_little_memory(tmp_path):
    path = tmp_path / "large.txt"
    path.write_text("A line of text that says very little about anything.\n" * 200_000)  # 10.6 MB
    tracemalloc.start()
    characters = sum(len(chunk) for chunk in iter_chunks(path, 4000, len))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters == 53 * 200_000
    assert peak < 1_500_000


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("Käse".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.txt is not valid UTF-8"):
        chunks_of(path, 10)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.txt cannot be read"):
        chunks_of(tmp_path / "none.txt", 10)
    with pytest.raises(InputError, match="cannot be read"):
        chunks_of(tmp_path, 10)


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(InputError, match="lone surrogate at character 3"):
        chunks_of("abc\ud800def", 10)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="chunk_tokens"):
        chunks_of("abc", 0)


def test_a_paragraph_s_end_is_preferred_to_a_later_line_s_end():
    text = "a" * 80 + "\n\n" + "b" * 8 + "\n" + "c" * 60
    assert chunks_of(text, 100)[0] == "a" * 80 + "\n\n"


def test_a_table_is_not_cut_where_a_line_before_it_ends_in_the_last_quarter():
    rows = "".join(f"| {n} | x |\n" for n in range(10))
    text = "w" * 89 + "\n" + rows
    assert chunks_of(text, 110)[0] == "w" * 89 + "\n"
    # A table that is longer than a chunk is cut between rows.
    long = chunks_of("".join(f"| {n:04d} | value |\n" for n in range(40)), 100)
    assert all(chunk.endswith("|\n") for chunk in long)


def test_code_is_cut_before_a_top_level_definition():
    text = "def first():\n" + "    a = 1\n" * 7 + "\n\n" + "def second():\n    b = 2\n\n    c = 3\n" + "    d = 4\n" * 9
    first = chunks_of(text, len("def first():\n" + "    a = 1\n" * 7) + 24)[0]
    assert first == "def first():\n" + "    a = 1\n" * 7 + "\n\n"


def test_a_large_chunk_is_counted_whole_twice_and_stays_within_the_limit():
    text = "".join(f"Line {number} tells of {number * 7919} things.\n" for number in range(12_000))
    counted = []

    def count(part):
        counted.append(len(part))
        return len(part) // 3

    limit = 8_192
    chunks = list(iter_chunks(text, limit, count))
    assert "".join(chunks) == text
    assert all(len(chunk) // 3 <= limit for chunk in chunks)
    assert all(len(chunk) // 3 > 0.95 * limit for chunk in chunks[:-1])
    assert sum(counted) < 2.5 * len(text)


@given(st.lists(st.sampled_from(["a", "word ", "Ω", "\n", "9", "\n\n", "```"]), max_size=300), st.integers(0, 2**20))
@settings(deadline=None, max_examples=40)
def test_a_text_whose_density_jumps_is_cut_within_the_limit(pieces, seed):
    # One token a character in some stretches, one in twenty characters in others: the first guesses are far off.
    text = "".join(piece * (1 + (seed >> index) % 700) for index, piece in enumerate(pieces))

    def count(part):
        return part.count("Ω") + part.count("9") + (len(part) + 19) // 20

    chunks = list(iter_chunks(text, 5_000, count))
    assert "".join(chunks) == text
    assert all(count(chunk) <= 5_000 for chunk in chunks)


ROWS = {
    "markdown": "| {n} | some value |\n",
    "indented": "  | {n} | some value |\n",
    "commas": "{n},alpha,beta\n",
    "semicolons": "{n};alpha;beta\n",
    "tabs": "{n}\talpha\n",
    "lines of HTML": "<tr><td>{n}</td><td>alpha</td></tr>\n",
}


def table_of(kind, rows):
    text = "".join(ROWS[kind].format(n=f"{n:03d}") for n in range(rows))
    return f"<table>\n{text}</table>\n" if "HTML" in kind else text


@pytest.mark.parametrize("kind", ROWS)
def test_a_table_that_begins_early_and_fits_into_the_next_chunk_is_read_whole(kind):
    table = table_of(kind, 20)
    before = "Some words before it.\n" * (len(table) // 44)  # about half as long
    limit = len(table) + len(table) // 20  # more than the search for a chunk leaves open
    assert len(before) < 0.7 * limit
    chunks = chunks_of(before + table + "\nAfter it.\n" * 10, limit)
    assert chunks[0] == before
    assert chunks[1].startswith(table)


def test_a_table_is_cut_rather_than_a_chunk_left_nearly_empty():
    table = table_of("markdown", 20)
    before = "Few words.\n"
    limit = len(table)
    assert len(before) < limit / 4
    first = chunks_of(before + table, limit)[0]
    assert first.endswith("|\n")
    assert len(first) > 0.75 * limit


@pytest.mark.parametrize("kind", ROWS)
def test_a_table_longer_than_a_chunk_is_cut_between_rows_wherever_it_begins(kind):
    for words in (0, 3, 9, 14):
        document = "Some words.\n" * words + table_of(kind, 90)
        chunks = chunks_of(document, 300)
        assert "".join(chunks) == document
        assert len(chunks) > 3
        assert all(chunk.endswith("\n") for chunk in chunks)


def test_rows_longer_than_a_quarter_of_a_chunk_stay_whole():
    # No line ends in the last quarter: it would be cut at a word.
    row = "| " + "word " * 12 + "|\n"
    chunks = chunks_of("Text.\n" + row * 9, 150)
    assert all(chunk.endswith("|\n") for chunk in chunks)


def test_a_table_of_html_on_one_line_is_read_whole_or_cut_between_rows():
    rows = "".join(f"<tr><td>{n:03d} some words</td></tr>" for n in range(40))
    table = f"<TABLE class='x'>{rows}</TABLE>"
    before = "Some words before it. " * 30
    first, second = chunks_of(before + table, len(table) + len(table) // 20)
    assert (first, second) == (before, table)
    assert all(chunk.endswith(("</tr>", "</TABLE>")) for chunk in chunks_of(table, 400))


def test_prose_with_commas_is_no_table():
    lines = ["One, two, three.\n", "Four, five and six.\n", "Seven, eight, nine.\n"]
    document = "".join(lines) * 20
    assert len(chunks_of(document, 200)[0]) > 150


def test_the_place_of_a_table_s_end_beyond_what_was_read_is_looked_for(tmp_path):
    # Its last row lies further on than what the chunk itself needs of the file.
    table = table_of("markdown", 4_500)
    before = "Some words before it.\n" * 4_000
    path = tmp_path / "document.txt"
    path.write_text(before + table + "\nAfter it.\n" * 30_000)
    limit = len(table) + len(table) // 50
    chunks = chunks_of(path, limit)
    assert "".join(chunks) == path.read_text()
    assert len(before) > limit / 4
    assert chunks[0] == before
    assert chunks[1].startswith(table)


@given(
    st.lists(
        st.tuples(st.sampled_from(["prose", *ROWS]), st.integers(3, 8), st.integers(0, 5)), min_size=1, max_size=25
    )
)
@settings(deadline=None)
def test_a_table_of_at_most_seven_tenths_of_a_chunk_is_never_cut(blocks):
    parts, tables = [], []
    for kind, rows, words in blocks:
        part = f"It says {'something ' * words}here.\n\n" if kind == "prose" else table_of(kind, rows)
        parts += [part, "\nBetween.\n"]  # two tables side by side would be one
        tables += [] if kind == "prose" else [part]
    document, limit = "".join(parts), 480
    assert all(len(table) <= 0.7 * limit for table in tables)
    chunks = chunks_of(document, limit)
    assert "".join(chunks) == document
    assert all(len(chunk) <= limit for chunk in chunks)
    cuts, position = set(), 0
    for chunk in chunks:
        position += len(chunk)
        cuts.add(position)
    start = 0
    for part in parts:
        if part in tables:
            assert not any(start < cut < start + len(part) for cut in cuts)
        start += len(part)
