"""A second answer in the context is noticed where the context alone decides it; the same said twice is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_corpus import doc, evidence_of, span_of, store, value_sample

from stages.common.records import AnswerKind, Category, Sample, Span, TaskType
from stages.synthesis.checks import refusal
from stages.synthesis.uniqueness import answer_is_unique

TABLE = "| | 2024 | 2023 |\n| --- | --- | --- |\n"


def whole(document) -> Span:
    return span_of(document, document.text)


def found(tmp_path, sample: Sample, *documents) -> str | None:
    """The reason of the drop; every other check must hold."""
    documents = store(tmp_path, *documents)
    refused = answer_is_unique(sample, documents)
    assert refusal(sample, documents) == refused
    return refused[0] if refused else None


def land(name, *sections, **changes):
    return doc(
        name, f"# {name}\n\n" + "\n\n".join(f"## {title}\n\n{body}" for title, body in sections) + "\n", **changes
    )


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ([("Climate", "mild and wet"), ("Rivers", "two")], None),
        ([("Climate", "mild and wet"), ("Climate", "harsh")], "not_unique"),
        ([("Climate", "mild and wet"), ("Climate", "mild and  wet")], None),
        ([("Climate", "mild and wet"), ("Climate change", "harsh")], None),
    ],
)
def test_a_second_section_of_the_name_that_says_otherwise(tmp_path, sections, reason):
    place = land("Arcadia", *sections)
    sample = value_sample(place, "Climate", "mild and wet", context=[whole(place)])
    assert found(tmp_path, sample, place) == reason


def test_what_the_context_does_not_show_is_no_second_answer(tmp_path):
    place = land("Arcadia", ("Climate", "mild and wet"), ("Climate", "harsh"))
    sample = value_sample(place, "Climate", "mild and wet")
    assert found(tmp_path, sample, place) is None


def test_another_shown_document_of_the_same_title(tmp_path):
    place = land("Arcadia", ("Climate", "mild and wet"))
    twin = doc("twin", "# Arcadia\n\nA town in the north.\n", title="Arcadia")
    sample = value_sample(place, "Climate", "mild and wet", context=[whole(place), whole(twin)])
    assert found(tmp_path, sample, place, twin) == "not_unique"
    renamed = twin.model_copy(update={"title": "Arcadia, New York"})
    assert found(tmp_path, sample, place, renamed) is None


SENTENCE = "The harbour of Strelsau was opened to foreign merchants in the spring of 1851."


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("Nothing of note.", None),
        (f"As we know. {SENTENCE}", "not_unique"),
        (SENTENCE.replace("Strelsau was", "Strelsau\nwas"), "not_unique"),
        (SENTENCE.replace("1851", "1852"), None),
    ],
)
def test_a_sentence_that_a_second_document_says(tmp_path, other, reason):
    first, second = doc("first", f"# First\n\n{SENTENCE}\n", title="First"), doc("second", f"# Second\n\n{other}\n")
    sample = Sample.model_validate(
        {
            "id": "reading_comprehension-1",
            "task_type": TaskType.READING_COMPREHENSION,
            "question": f'Which document says: "{SENTENCE}" Give its title.',
            "answer": "First",
            "answer_kind": AnswerKind.TEXT,
            "evidence": [evidence_of(first, SENTENCE)],
            "proof": {"kind": "title_of", "sentence": SENTENCE, "title": "First"},
            "generator": "test",
            "seed": 1,
            "context": [whole(first), whole(second)],
            "context_tokens": 9,
        }
    )
    assert found(tmp_path, sample, first, second) == reason


def look_up(document, label: str, number: str, value: str, column: str = "2024") -> Sample:
    """ "What is the figure in row `label`?" of the document's first table."""
    header = document.text.index(TABLE)
    line = document.text.index(f"| {label} |", header)
    end = document.text.index("\n", line)
    start = document.text.index(number, line)
    row = {
        "document_id": document.id,
        "entity": document.title,
        "attribute": label,
        "period": column,
        "year": int(column),
        "value": value,
        "unit": "",
        "start": start,
        "end": start + len(number),
        "labels": [label, column],
        "grid": {"header": [header, header + len(TABLE) - 1], "line": [line, end], "column": [column]},
        "scale": "",
    }
    return Sample.model_validate(
        {
            "id": "numerical-1",
            "task_type": TaskType.NUMERICAL,
            "question": f"{document.title}: which number stands in row {label}, column {column}?",
            "answer": value,
            "answer_kind": AnswerKind.NUMBER,
            "evidence": [evidence_of(document, document.text[header:end])],
            "proof": {"kind": "sql", "sql": "SELECT value FROM facts", "rows": [row]},
            "generator": "test",
            "seed": 1,
            "context": [whole(document)],
            "context_tokens": 9,
        }
    )


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (f"{TABLE}| Net assets | 400 | 300 |\n", "not_unique"),
        (f"{TABLE}| Net assets | 912 | 300 |\n", None),
        (f"{TABLE}| Net assets | $912 | 300 |\n", None),  # the sign of one row is meant of all
        (f"{TABLE}| Net assets, other | 400 | 300 |\n", None),
        ("| | Mexico | Peru |\n| --- | --- | --- |\n| Net assets | 400 | 300 |\n", None),  # another column
        (f"{TABLE}| Net assets | — | 300 |\n", None),
    ],
)
def test_a_second_row_of_the_name_below_an_equal_header(tmp_path, second, reason):
    report = doc(
        "report", f"# Report\n\n{TABLE}| Sales | 5 | 4 |\n| Net assets | 912 | 811 |\n\nFurther on:\n\n{second}"
    )
    assert found(tmp_path, look_up(report, "Net assets", "912", "912"), report) == reason


def test_a_second_row_in_the_same_table(tmp_path):
    report = doc(
        "report", f"# Report\n\n{TABLE}| Net assets | 912 | 811 |\n| Costs | 2 | 1 |\n| Net assets | 7 | 6 |\n"
    )
    assert found(tmp_path, look_up(report, "Net assets", "912", "912"), report) == "not_unique"


def path_sample(document, hops, answer, parts, question, context) -> Sample:
    return Sample.model_validate(
        {
            "id": "multi_hop-1",
            "task_type": TaskType.MULTI_HOP,
            "question": question,
            "answer": answer,
            "answer_kind": AnswerKind.TEXT,
            "evidence": [evidence_of(document, part) for part in parts],
            "proof": {"kind": "path", "hops": hops},
            "generator": "test",
            "seed": 1,
            "context": context,
            "context_tokens": 9,
        }
    )


def row_of(document, attribute, value, labels, near=""):
    at = document.text.index(value, document.text.index(near))
    return {
        "document_id": document.id,
        "entity": document.title,
        "attribute": attribute,
        "period": "",
        "value": value,
        "unit": "",
        "start": at,
        "end": at + len(value),
        "labels": labels,
    }


FRAME = ("The observatory on the northern hill was built in ", " by the old academy of sciences")


@pytest.mark.parametrize(
    ("more", "other", "reason"),
    [
        ("", "Nothing.", None),
        (f"{FRAME[0]}1815{FRAME[1]}.", "Nothing.", "not_unique"),
        (f"{FRAME[0]}1793{FRAME[1]}.", "Nothing.", None),
        ("", "They met at Hentzau Castle in May.", "not_unique"),  # a second document that mentions it
        ("", "They met at Hentzau Castles in May.", None),
    ],
)
def test_a_path_s_description_and_its_blank_mean_one_thing(tmp_path, more, other, reason):
    text = f"# Zenda\n\nNear Hentzau Castle it rains.\n\n{FRAME[0]}1793{FRAME[1]}.\n\n{more}\n"
    place, second = doc("zenda", text, title="Zenda"), doc("second", f"# Second\n\n{other}\n")
    blank = f"{FRAME[0]}____{FRAME[1]}"
    sample = path_sample(
        place,
        [
            {"op": "describe", "row": row_of(place, "mentions", "Hentzau Castle", [])},
            {"op": "value", "from": "Zenda", "row": row_of(place, f"year of «{blank}»", "1793", list(FRAME))},
        ],
        "1793",
        ["Near Hentzau Castle it rains.", f"{FRAME[0]}1793{FRAME[1]}"],
        f'Which year fills the blank in "{blank}" in the document that mentions "Hentzau Castle"?',
        [whole(place), whole(second)],
    )
    assert found(tmp_path, sample, place, second) == reason


@pytest.mark.parametrize(
    ("parent", "body", "reason"),
    [("Capital", "Hofbau", "not_unique"), ("Capital", "Strelsau", None), ("Largest town", "Hofbau", None)],
)
def test_a_value_under_headings_has_no_other_under_the_same_ones(tmp_path, parent, body, reason):
    text = f"# Ruritania\n\n## Capital\n\n### name\n\nStrelsau\n\n## {parent}\n\n### name\n\n{body}\n"
    place = doc("ruritania", text, title="Ruritania")
    sample = path_sample(
        place,
        [{"op": "value", "from": "Ruritania", "row": row_of(place, "capital", "Strelsau", ["Capital", "name"])}],
        "Strelsau",
        ["## Capital\n\n### name\n\nStrelsau"],
        "What is the capital of Ruritania?",
        [whole(place)],
    )
    assert found(tmp_path, sample, place) == reason


def turn_sample(document, kind, answer, parts, said) -> Sample:
    window = span_of(document, document.text)
    return Sample.model_validate(
        {
            "id": "dialogue_memory-1",
            "task_type": TaskType.DIALOGUE_MEMORY,
            "question": f'In the conversation "{document.title}", a turn is quoted: "{said}"',
            "answer": answer,
            "answer_kind": AnswerKind.TEXT,
            "evidence": [evidence_of(document, part) for part in parts],
            "proof": {"kind": kind, "said": said, "window": window.model_dump()},
            "generator": "test",
            "seed": 1,
            "context": [window],
            "context_tokens": 9,
        }
    )


@pytest.mark.parametrize(
    ("third", "who", "what"),
    [
        ("[3] Bob: Is it late?\n[4] Cy: Very.", "not_unique", None),
        ("[3] Ann: Is it late?\n[4] Cy: Very.", None, "not_unique"),
        ("[3] Ann: Is it late?\n[4] Cy: Not yet.", None, None),
        ("[3] Bob: I wonder: Is it late?\n[4] Cy: Very.", None, None),
    ],
)
def test_the_quoted_words_of_a_turn_stand_in_no_other(tmp_path, third, who, what):
    talk = doc("talk", f"[1] Ann: Is it late?\n[2] Bob: Not yet.\n{third}\n", Category.DIALOGUES)
    documents = store(tmp_path, talk)
    asked = turn_sample(talk, "speaker_of", "Ann", ["[1] Ann: Is it late?"], "Is it late?")
    reply = turn_sample(talk, "reply_to", "Not yet.", ["[1] Ann: Is it late?", "[2] Bob: Not yet."], "Is it late?")
    reasons = [refused and refused[0] for refused in (answer_is_unique(s, documents) for s in (asked, reply))]
    assert reasons == [who, what]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["mild", "harsh", "wet"]), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_unique_exactly_if_all_shown_sections_of_the_name_agree(tmp_path_factory, bodies, chance):
    place = land("Arcadia", *[("Climate", body) for body in bodies])
    starts, at = [], 0
    for body in bodies:
        at = place.text.index(f"## Climate\n\n{body}", at)
        starts.append((at, at + len(f"## Climate\n\n{body}")))
        at += 1
    shown = sorted(chance.sample(range(len(bodies)), chance.randint(1, len(bodies))))
    first = bodies[0]
    context = [Span(document_id=place.id, start=starts[i][0], end=starts[i][1]) for i in {0, *shown}]
    sample = value_sample(place, "Climate", first, context=context)
    documents = store(tmp_path_factory.mktemp("unique"), place)
    unique = all(bodies[i] == first for i in shown)
    assert (answer_is_unique(sample, documents) is None) == unique
