"""Labels induced from examples: hand-made documents, simpler rules, traps, and what a damaged question gives."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_corpus import doc, store

from stages.common.records import AnswerKind, Category, Evidence, QAPair, Sample, Span, TaskType
from stages.rewards.rules import cover_exact_match
from stages.synthesis.checks import refusal
from stages.synthesis.distractor_rules import guard_of
from stages.synthesis.in_context_labels import LabelQuestions
from stages.synthesis.in_context_places import class_places, document_place, section_places, sentences
from stages.synthesis.in_context_proofs import label_question, shown_texts
from stages.synthesis.in_context_rules import by_kind, in_ranges, nearest, surface_rule
from stages.synthesis.in_context_words import invented_labels
from stages.synthesis.outline import classes, headings
from stages.synthesis.reading_comprehension import make_questions
from stages.synthesis.rederive import rederive
from stages.synthesis.text_words import TextWords

WORDS = re.findall(
    r"\w+",
    "harbour market stone river letter winter bridge garden captain window silver paper morning forest village lantern "
    "carried opened painted counted followed covered gathered measured whispered repaired slowly quietly often never "
    "behind under beside against toward",
)


def sentence(chance):
    return f"The {' '.join(chance.choices(WORDS, k=chance.randint(6, 9)))}."


def page(name, chance, sections=5, per_section=8, prefix=""):
    """A document whose sections are called Part 0, Part 1, ... and hold sentences of random words."""
    parts = [f"# {name.title()}"]
    for number in range(sections):
        said = " ".join(prefix + sentence(chance) for _ in range(per_section))
        parts.append(f"## Part {number}\n\nLong ago it was so. {said} \n")
    return doc(name, "\n\n".join(parts), title=f"{name.title()} Chronicle")


def package(chance, number=5):
    """A repository of classes with methods of random names."""
    names = [f"{a}_{b}" for a in WORDS[:16] for b in WORDS[16:26]]
    chance.shuffle(names)
    parts = ["# file: pack/core.py\nimport os\n"]
    for index in range(number):
        methods = "\n\n".join(f"    def {names.pop()}(self):\n        return {index}" for _ in range(6))
        parts.append(f"class Kind{'ABCDEFGH'[index]}:\n{methods}\n")
    return doc("pack", "\n\n".join(parts), Category.CODE, "pack")


def corpus(seed=1, pages=5):
    chance = random.Random(seed)
    return [page(name, chance) for name in ("alpha", "bravo", "delta", "gamma", "omega")[:pages]] + [package(chance)]


def labels_of(documents, seed=1, *, all_documents):
    found = LabelQuestions(documents, seed)
    for document in all_documents:
        found.offer(document)
    return list(found.candidates())


def pairs_of(tmp_path, seed=1):
    documents = store(tmp_path, *corpus(seed))
    pairs, _ = make_questions(documents, 400, seed)
    return documents, [pair for pair in pairs if pair.proof["kind"] == "labels"]


# --- a question by hand

TEXTS = {"north": ("A1 b", "A2 b", "A3 b"), "south": ("B1 b", "B2 b", "B3 b"), "west": ("C1 b", "C2 b", "C3 b")}
NAMES = {"general/north": "dorvem", "general/south": "milzak", "general/west": "tulfnob"}
SHOTS = [(text, NAMES[f"general/{name}"]) for name, texts in TEXTS.items() for text in texts[:2]]
ASKED = ["C3 b", "A3 b"]


def by_hand(**changes):
    """Three documents, two examples each, two texts to be labelled; every text is a span of its own."""
    pages = {name: doc(name, "\n".join(texts)) for name, texts in TEXTS.items()}
    evidence = [
        Evidence(document_id=page.id, start=page.text.index(text), end=page.text.index(text) + 4, quote=text)
        for page in pages.values()
        for text in TEXTS[page.title]
    ]
    fields = {
        "id": "reading_comprehension-1",
        "task_type": TaskType.READING_COMPREHENSION,
        "question": label_question(changes.pop("shots", SHOTS), changes.pop("asked", ASKED)),
        "answer": "tulfnob, dorvem",
        "answer_kind": AnswerKind.TEXT,
        "evidence": evidence,
        "proof": {"kind": "labels", "by": "document", "labels": changes.pop("labels", NAMES)},
        "generator": "reading_comprehension/labels_of_documents",
        "seed": 1,
    }
    return QAPair.model_validate({**fields, **changes}), {page.id: page.text for page in pages.values()}


def derived(pair, texts):
    return rederive(pair, lambda span: texts[span.document_id][span.start : span.end])


def test_the_question_and_its_answer_by_hand():
    pair, texts = by_hand()
    assert pair.question == (
        "A hidden rule labels every text by where it stands in the documents, not by its wording. Examples:\n"
        'dorvem: "A1 b"\ndorvem: "A2 b"\nmilzak: "B1 b"\nmilzak: "B2 b"\ntulfnob: "C1 b"\ntulfnob: "C2 b"\n'
        'By the same rule, which labels do these texts have?\n1. "C3 b"\n2. "A3 b"\n'
        "Answer with the labels only, in this order, separated by commas."
    )
    assert shown_texts(pair.question) == (SHOTS, ASKED)
    assert derived(pair, texts) == "tulfnob, dorvem"


@pytest.mark.parametrize(
    "changes",
    [
        {"shots": [("A1 b", "milzak"), *SHOTS[1:]]},  # one document, two labels
        {
            "shots": [(text, "dorvem" if label == "milzak" else label) for text, label in SHOTS]
        },  # one label, two documents
        {"shots": SHOTS[:5]},  # one example of a label
        {"shots": SHOTS[:4], "asked": ["A3 b"], "labels": dict(list(NAMES.items())[:2])},  # two labels
        {"shots": [*SHOTS, ("D1 b", "dorvem")]},  # an example that stands nowhere
        {"asked": ["D1 b"]},
        {"asked": []},
        {"labels": {**NAMES, "general/west": "dorvem"}},
        {"labels": {}},
        {"proof": {"kind": "labels", "by": "paragraph", "labels": NAMES}},
        {"proof": {"kind": "labels"}},
        {"evidence": []},
    ],
)
def test_what_does_not_hold_gives_nothing(changes):
    assert derived(*by_hand(**changes)) is None


def test_a_text_in_two_spans_or_twice_in_one_gives_nothing():
    pair, texts = by_hand()
    for said in ("A1 b A1 b", "A1 b C3 b"):
        changed = {**texts, "general/north": said}
        wide = [
            Evidence(document_id="general/north", start=0, end=len(said), quote=said),
            *(item for item in pair.evidence if item.document_id != "general/north"),
        ]
        assert derived(pair.model_copy(update={"evidence": wide}), changed) is None


def test_sections_and_classes_are_places_only_if_their_span_shows_it():
    sections = "## One\nA1 b A2 b A3 b\n## Two\nB1 b B2 b B3 b\n## Six\nC1 b C2 b C3 b"
    kinds = "class One:\n  A1 b A2 b A3 b\nclass Two:\n  B1 b B2 b B3 b\nclass Six:\n  C1 b C2 b C3 b"
    names = {"One": "dorvem", "Two": "milzak", "Six": "tulfnob"}
    for by, text, mark in (("section", sections, "## "), ("class", kinds, "class ")):
        starts = [text.index(mark + name) for name in names]
        spans = list(zip(starts, [text.index("3 b", start) + 3 for start in starts], strict=True))

        def pair(spans, by=by, text=text):
            cited = [Evidence(document_id="general/x", start=s, end=e, quote=text[s:e]) for s, e in spans]
            return by_hand(evidence=cited, proof={"kind": "labels", "by": by, "labels": names})[0]

        assert derived(pair(spans), {"general/x": text}) == "tulfnob, dorvem"
        headless = [(spans[0][0] + len(mark), spans[0][1]), *spans[1:]]
        over_two = [(spans[0][0], spans[1][1]), *spans[2:]]
        for wrong in (headless, over_two):
            assert derived(pair(wrong), {"general/x": text}) is None


def test_naming_all_labels_is_no_answer():
    pair, _ = by_hand()
    assert cover_exact_match("tulfnob, dorvem", str(pair.answer)) == 1.0
    assert cover_exact_match("dorvem, milzak, tulfnob", str(pair.answer)) == 0.0


# --- simpler rules


def test_rules_of_kinds_and_ranges():
    assert by_kind([("a", "x"), ("b", "y"), ("a", "x")], ["b", "a"]) == ["y", "x"]
    assert by_kind([("a", "x"), ("a", "y")], ["a"]) is None  # contradicted
    assert by_kind([("a", "x")], ["c"]) is None  # says nothing
    assert in_ranges([(1, "x"), (2, "x"), (5, "y"), (3, "y"), (9, "z")])
    assert not in_ranges([(1, "x"), (4, "x"), (3, "y"), (9, "z")])
    assert nearest([(1, "x"), (5, "y")], 2) == "x"


PLAIN = [
    ("The cat sat on a long mat here.", "x"),
    ("A dog ran to the far old sea.", "x"),
    ("The men of old had two or six ox.", "y"),
    ("A sun is set on the red top.", "y"),
    ("The sky at dusk is not so dim.", "z"),
    ("A man of the far isle can row a big old tub.", "z"),
]


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (None, lambda text, label: text),
        ("first word", lambda text, label: f"{ {'x': 'There', 'y': 'Their', 'z': 'These'}[label] } {text}"),
        ("first letter", lambda text, label: label.upper() + text),
        ("last word", lambda text, label: f"{text[:-1]} {label * 3}."),
        ("last character", lambda text, label: text[:-1] + {"x": "!", "y": "?", "z": "."}[label]),
        ("length", lambda text, label: text[:20] + {"x": "", "y": " " * 9, "z": " " * 19}[label]),
        ("commas", lambda text, label: text + "," * "xyz".index(label)),
        ("digits", lambda text, label: text + "7" * "xyz".index(label)),
        ("shared words", lambda text, label: f"The {label * 5} and {text.lower()}"),
    ],
)
def test_a_rule_on_the_wording_is_found(rule, change):
    shots = [(change(text, label), label) for text, label in PLAIN]
    asked = [(change("The ox of a man is in the sea.", "y"), "y"), (change("A mat is red at dusk.", "z"), "z")]
    assert surface_rule(shots, asked) == rule


def test_no_question_is_made_where_the_first_word_tells_the_document(tmp_path):
    chance = random.Random(3)
    names = ("alpha", "bravo", "delta", "gamma")
    said = [page(name, chance, sections=1, per_section=40, prefix=f"{name.title()}x said so, and ") for name in names]
    assert labels_of(store(tmp_path, *said), all_documents=said) == []


# --- what is quoted


def quotes_in(document):
    return [quote.text for quote in sentences(document, headings(document.text))]


def test_sentences_that_are_quoted():
    said = "The harbour was opened to foreign merchants in spring."
    text = f"# A\n\n{said} Then came the winter and the river froze over again. \n"
    found = sentences(doc("a", text), headings(text))
    assert [(quote.text, quote.under) for quote in found] == [
        (said, "A"),
        ("Then came the winter and the river froze over again.", "A"),
    ]
    assert all(text[quote.start : quote.end] == quote.text for quote in found)


@pytest.mark.parametrize(
    "said",
    [
        'He called "the harbour" a place of trade for all foreign merchants.',  # would end the quotation
        "The harbour was opened\nto foreign merchants in the spring of that year.",  # two lines
        "On every continent and in every land to which the good Mrs.",  # cut at an abbreviation
        "To her who came with Mr. Darcy, she moved again towards the gate.",
        "Proc Natl Acad Sci U S A 107 (51) 22134–22139 and Annu Rev Genomics.",  # a reference
        "The harbour </document><question> was opened to foreign merchants.",
        "The harbour was opened.",
    ],
)
def test_what_is_not_quoted(said):
    assert quotes_in(doc("a", f"# A\n\nIt was so. {said} \n")) == []


def test_a_sentence_that_stands_twice_is_not_quoted(tmp_path):
    twice = "The stone bridge beside the market was repaired in the winter."
    assert quotes_in(doc("a", f"# A\n\nSo it was. {twice} And so it went on. {twice} \n")) == []
    everywhere = [
        page_with(page, "So it was. " + said + " ")
        for page, said in zip(
            corpus()[:5],
            (twice, twice.upper(), twice.replace(" market", "\nmarket"), twice, twice.lower()),
            strict=True,
        )
    ]
    found = labels_of(store(tmp_path, *everywhere), all_documents=everywhere)
    assert len(found) > 20
    assert not any(twice in candidate.question for candidate in found if candidate.proof["by"] == "document")


def page_with(document, said):
    return document.model_copy(update={"text": document.text.replace("Long ago it was so.", f"Long ago. {said}", 1)})


def test_a_text_that_names_its_place_is_not_quoted():
    text = "# Coal\n\nIt was so. The coal was carried over the river in winter. The stone was carried over the river in spring. \n"
    document = doc("a", text, title="River Tales")
    quotes = sentences(document, headings(text))
    (section,) = section_places(document, headings(text), quotes)
    assert [quote.text for quote in section.quotes] == ["The stone was carried over the river in spring."]
    assert document_place(document, quotes).quotes == ()


def test_methods_that_are_defined_once():
    source = "class SortedQueue:\n    def put(self):\n        pass\n\n    async def get(\n        self):\n        pass\n\n    def sort_queue(self): pass\n"
    document = doc(
        "a", f"{source}\n\nclass Other:\n    def put(self):\n        pass\n\n    def only(self): pass\n", Category.CODE
    )
    found = {
        place.name: [quote.text for quote in place.quotes] for place in class_places(document, classes(document.text))
    }
    assert found == {"SortedQueue": ["def get("], "Other": ["def only("]}


def test_labels_are_invented_and_stand_in_no_text():
    texts: list[str] = []
    for seed in range(40):
        labels = invented_labels(6, texts, random.Random(seed))
        assert len({label[0] for label in labels}) == len(labels) == 6
        assert all(len(label) == 6 and label.isalpha() for label in labels)
        assert not any(label in text for label in labels for text in texts)
        texts.append(f"a word such as {labels[0]} in a text")
    assert invented_labels(1, ["".join(invented_labels(1, [], random.Random(7)))], random.Random(7)) != invented_labels(
        1, [], random.Random(7)
    )


def test_labels_of_a_hostile_document_are_not_used(tmp_path):
    documents = corpus()
    store_of = store(tmp_path, *documents)
    first = labels_of(store_of, all_documents=documents)[0]
    taken = sorted(first.proof["labels"].values())
    hostile = [
        page_with(page, " ".join(f'\n{label}: "The river." {label} \n' for label in taken)) for page in documents
    ]
    for candidate in labels_of(store(tmp_path, *hostile), all_documents=hostile):
        if candidate.proof["by"] == "document":
            assert not set(candidate.proof["labels"].values()) & set(taken)


# --- questions from documents


def test_every_family_gives_questions_that_hold(tmp_path):
    documents, pairs = pairs_of(tmp_path)
    assert {pair.generator.removeprefix("reading_comprehension/") for pair in pairs} == {
        "labels_of_documents",
        "labels_of_sections",
        "labels_of_classes",
    }
    for pair in pairs:
        assert rederive(pair, documents.text_of) == pair.answer
        shots, asked = shown_texts(pair.question)
        counted = Counter(label for _, label in shots)
        assert len(counted) >= 3
        assert len(set(counted.values())) == 1
        assert counted.most_common()[0][1] >= 2
        assert 2 <= len(asked) == len(str(pair.answer).split(", "))
        texts = [documents[document_id].text for document_id in {span.document_id for span in pair.evidence}]
        for text in [*asked, *(text for text, _ in shots)]:
            assert sum(said.count(text) for said in texts) == 1
        assert not any(label in said for label in counted for said in texts)
        assert len(pair.question) < 3_500


def test_a_question_passes_the_checks_with_its_documents_as_context(tmp_path):
    documents, pairs = pairs_of(tmp_path)
    for pair in pairs:
        shown = [
            Span(document_id=document_id, start=0, end=len(documents[document_id].text))
            for document_id in dict.fromkeys(span.document_id for span in pair.evidence)
        ]
        assert refusal(Sample(**dict(pair), context=shown, context_tokens=1), documents) is None


def test_no_distractor_holds_a_quoted_text_or_a_label(tmp_path):
    documents, pairs = pairs_of(tmp_path)
    (text, label), *_ = shown_texts(pairs[0].question)[0]
    asked = shown_texts(pairs[0].question)[1][0]
    guard = guard_of(pairs[0], [documents[span.document_id] for span in pairs[0].evidence])
    for said in (text.upper(), label, asked.replace(" ", "\n")):
        words = TextWords(f"Some other text. {said} And more.")
        assert not guard.allows_text(words, 0, 1_000)
    assert guard.allows_text(TextWords("Some other text. And more."), 0, 1_000)


def test_labels_are_an_eighth_of_the_questions_at_most(tmp_path):
    pairs, _ = make_questions(store(tmp_path, *corpus()), 50, seed=1)
    assert sum(pair.proof["kind"] == "labels" for pair in pairs) == 6
    assert len(pairs) == 50


def test_documents_that_are_too_few_or_too_short_give_none(tmp_path):
    two = corpus(pages=2)[:2]
    short = [doc(name, f"# {name}\n\nNothing to ask here.") for name in ("a", "b", "c", "d")]
    for documents in (two, short, []):
        found = labels_of(store(tmp_path, *documents), all_documents=documents)
        assert not any(candidate.proof["by"] == "document" for candidate in found)


def test_equal_seeds_give_equal_questions(tmp_path):
    documents = corpus()
    made = [labels_of(store(tmp_path, *documents), seed, all_documents=documents) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_asked_labels_are_uniform(tmp_path):
    """Counted by the order in which the labels first appear among the examples."""
    places, asked = Counter(), 0
    for seed in range(12):
        documents = corpus(seed)
        for candidate in labels_of(store(tmp_path, *documents), seed, all_documents=documents):
            order = list(dict.fromkeys(label for _, label in shown_texts(candidate.question)[0]))
            if len(order) == 3:
                given = candidate.answer.split(", ")
                places.update(order.index(label) for label in given)
                asked += len(given)
    assert asked > 300
    assert all(0.26 < places[index] / asked < 0.41 for index in range(3))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_every_question_is_rederived_and_not_after_tampering(tmp_path_factory, seed, data):
    documents, pairs = pairs_of(tmp_path_factory.mktemp("labels"), seed)
    pair = data.draw(st.sampled_from(pairs))
    assert rederive(pair, documents.text_of) == pair.answer
    shots, asked = shown_texts(pair.question)
    index = data.draw(st.integers(0, len(shots) - 1))
    text, label = shots[index]
    other = next(name for _, name in shots if name != label)
    shots[index] = (text, other)
    relabelled = pair.model_copy(update={"question": label_question(shots, asked)})
    assert rederive(relabelled, documents.text_of) is None

    number = data.draw(st.integers(0, len(pair.evidence) - 1))
    span = pair.evidence[number]
    for moved in (
        span.model_copy(update={"start": span.start + 3}),
        span.model_copy(update={"end": span.end - 1}),
        span.model_copy(update={"start": span.end, "end": span.end + len(span.quote)}),
    ):
        changed = pair.model_copy(update={"evidence": [*pair.evidence[:number], moved, *pair.evidence[number + 1 :]]})
        assert rederive(changed, documents.text_of) is None
