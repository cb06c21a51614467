"""Multi-hop questions on the starter corpus and on small random graphs: unique in the graph, proven, the same bytes."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from fact_corpus import country, document, starter_documents, store_of, write_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import NotEnoughDataError
from stages.common.records import AnswerKind, Category, Document, QAPair
from stages.common.shards import ProcessExecutor, SerialExecutor
from stages.common.storage import DocumentStore, iter_json_lines, read_json, read_records, write_jsonl
from stages.synthesis import multi_hop
from stages.synthesis.checks import answer_not_in_question
from stages.synthesis.config import MultiHopConfig, MultiHopStage
from stages.synthesis.multi_hop import make_questions, read_graph
from stages.synthesis.rederive import rederive
from stages.synthesis.steps import find_steps

LIMITS = {"min_hops": 2, "max_hops": 6, "min_distance_tokens": 0, "max_evidence_characters": 0, "named_entities": False}
PARADIGMS = {"multi_fact", "temporal", "causal", "hypothetical"}

CODE = {
    "shop": {
        "shop/__init__.py": "from .cart import Cart\n",
        "shop/cart.py": "from .base import Base\n\nCART_LIMIT = 50\n\n\nclass Cart(Base):\n    kind = 'basket'\n\n    def add_item(self, amount=12):\n        pass\n",
        "shop/base.py": "class Base:\n    def save_all(self):\n        pass\n\n\ndef total_of(items, rounding='half_even'):\n    return 0\n",
    },
    "store": {
        "store/main.py": "from shop.cart import Cart\n\n\nclass Store(Cart):\n    def open_doors(self, hour=9):\n        pass\n",
        "store/broken.py": "def (:\n",
    },
}


def repository(name, files):
    text = "\n".join(f"# file: {path}\n{source}" for path, source in files.items())
    return Document(
        id=f"code/{name}",
        category=Category.CODE,
        title=name,
        text=text,
        source=f"code/{name}",
        format="python",
        tokens=9,
    )


def repositories():
    return [repository(name, files) for name, files in CODE.items()]


def config(questions=150, **changes):
    return MultiHopConfig.model_validate({"questions": questions, "min_questions": 1, **LIMITS, **changes})


def run(folder, out, questions=150, seed=17, **changes):
    out.mkdir(parents=True, exist_ok=True)
    stage = MultiHopStage(generator=config(questions, **changes), seed=seed)
    return multi_hop.run(stage, {"documents": folder}, out, out, lambda step, metrics: None)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    root = tmp_path_factory.mktemp("starter")
    folder = write_documents(root / "documents", starter_documents())
    write_jsonl(folder / "code.jsonl", repositories())
    run(folder, root / "made", 250)
    return folder, store_of(folder), read_records(root / "made/qa.jsonl", QAPair), root / "made"


def test_as_many_as_wanted_of_four_paradigms_two_to_six_hops_and_several_domains(starter):
    made = starter[2]
    assert len(made) == 250
    assert len({qa.question for qa in made}) == 250
    assert {qa.proof["paradigm"] for qa in made} == PARADIGMS
    hops = Counter(qa.proof["hop_count"] for qa in made)
    assert set(hops) == {2, 3, 4, 5, 6}
    assert min(hops.values()) >= 10
    assert len({qa.proof["domain"] for qa in made}) >= 4
    kinds = {kind for qa in made for kind in qa.proof["obfuscation"]}
    assert kinds == {"temporal", "institutional", "ordinal", "attribute", "verbatim"}


def test_every_answer_is_rederived_and_every_quote_is_its_span(starter):
    _, documents, made, _ = starter
    for qa in made:
        assert all(item.quote == documents.text_of(item) for item in qa.evidence)
        assert rederive(qa, documents.text_of) == qa.answer


def test_no_question_says_its_answer(starter):
    from stages.common.records import Sample

    _, documents, made, _ = starter
    for qa in made:
        sample = Sample(**dict(qa), context=[], context_tokens=0)
        assert answer_not_in_question(sample, documents) is None, qa.question


def test_a_changed_letter_or_digit_in_the_evidence_is_noticed(starter):
    """Re-deriving reads the documents: with every letter and digit moved by one nothing holds any more."""
    _, documents, made, _ = starter
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    table = str.maketrans(letters, letters[1:] + letters[:1])
    assert not any(rederive(qa, lambda span: documents.text_of(span).translate(table)) == qa.answer for qa in made)


def test_a_path_is_broken_by_a_missing_hop_or_a_forged_entity(starter):
    _, documents, made, _ = starter
    broken = count = 0
    for qa in made:
        hops = qa.proof["hops"]
        for index in range(len(hops) - 1):
            if hops[index]["op"] == "alias" and hops[index]["from"] == hops[index]["to"]:
                continue  # a list that calls the entity by its own name
            count += 1
            proof = {**qa.proof, "hops": hops[:index] + hops[index + 1 :]}
            # What a later hop names in the question itself needs no hop; all else must be found on the way.
            broken += rederive(qa.model_copy(update={"proof": proof}), documents.text_of) != qa.answer
        forged = {**qa.proof, "hops": [*hops[:-1], {**hops[-1], "from": "Atlantis"}]}
        assert rederive(qa.model_copy(update={"proof": forged}), documents.text_of) is None
    assert broken >= 0.93 * count


def naive_answers(graph, words, source):
    """Everything that a step's words could mean, by going through all triples one by one."""
    found = set()
    for triple in graph.triples.iter_rows(named=True):
        if words[0] == "forward" and (triple["head_id"], triple["relation"]) == (source, words[1]):
            found.add(triple["tail_id"])
        if words[0] == "backward" and (triple["tail_id"], triple["relation"]) == (source, words[1]):
            found.add(triple["head_id"])
    return found


names = st.sampled_from(["Alfa", "Bravo", "Carlo", "Delta", "Eland", "Fargo"])
profile = st.tuples(
    st.sampled_from(["Rabat", "Tunis", "Cairo", "Lagos", "Accra"]),
    st.integers(1, 6),
    st.lists(st.tuples(names, st.integers(1, 5)), max_size=4),
)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(names, profile, min_size=2, max_size=6), st.integers(0, 99))
def test_on_random_graphs_every_step_means_one_thing_and_every_answer_is_the_only_one(tmp_path_factory, profiles, seed):
    folder = tmp_path_factory.mktemp("random")
    documents = [
        country(name, capital, f"{coast} km", "; ".join(f"{other} {km} km" for other, km in borders) or "none")
        for name, (capital, coast, borders) in sorted(profiles.items())
    ]
    write_documents(folder, documents)
    graph, _ = read_graph(folder, SerialExecutor())
    steps = find_steps(graph)
    for index in range(len(steps)):
        step = steps[index]
        if step.way in ("forward", "backward"):
            relation = graph.triples["relation"][step.row]
            assert naive_answers(graph, (step.way, relation), step.source) == {step.target}
    store = DocumentStore([folder / "general.jsonl"])
    made = make_questions(graph, store, config(12, min_questions=1), seed).questions
    by_question = defaultdict(set)
    for qa in made:
        by_question[qa.question].add(str(qa.answer))
        assert rederive(qa, store.text_of) == qa.answer
        capitals = [
            row["value"] for row in rows_of(qa) if row["attribute"] == "capital" and row["value"] in qa.question
        ]
        assert all(Counter(value[0] for value in profiles.values())[capital] == 1 for capital in capitals)
    assert all(len(answers) == 1 for answers in by_question.values())


def rows_of(qa):
    return [row for hop in qa.proof["hops"] for row in [*hop.get("rows", []), hop.get("row"), hop.get("link")] if row]


def test_the_same_bytes_twice_with_any_number_of_workers_and_others_with_another_seed(starter, tmp_path):
    folder = starter[0]
    one, _ = read_graph(folder, SerialExecutor())
    two, _ = read_graph(folder, ProcessExecutor(2))
    assert one.triples.equals(two.triples)
    assert one.nodes.equals(two.nodes)
    for name, seed in (("one", 17), ("two", 17), ("other", 18)):
        run(folder, tmp_path / name, 60, seed=seed)
    for name in ("qa.jsonl", "dropped.jsonl", "summary.json", "graph.json", "merges.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one/qa.jsonl").read_bytes() != (tmp_path / "other/qa.jsonl").read_bytes()


def test_limits_of_hops_and_evidence_are_kept(starter, tmp_path):
    run(starter[0], tmp_path, 150, max_hops=3, max_evidence_characters=560)
    made = read_records(tmp_path / "qa.jsonl", QAPair)
    assert len(made) == 150
    assert {qa.proof["hop_count"] for qa in made} == {2, 3}
    assert max(sum(item.end - item.start for item in qa.evidence) for qa in made) <= 560
    assert {qa.proof["paradigm"] for qa in made} == PARADIGMS


def test_facts_of_one_document_stand_apart_where_that_is_asked_for(starter, tmp_path):
    run(starter[0], tmp_path, 60, min_distance_tokens=100)
    chains = [qa for qa in read_records(tmp_path / "qa.jsonl", QAPair) if "/chain_" in qa.generator]
    assert len(chains) >= 15
    for qa in chains:
        rows = [row for hop in qa.proof["hops"] if (row := hop.get("row")) and hop["op"] != "alias"]
        for one in rows:
            for two in rows:
                if one is not two and one["document_id"] == two["document_id"] and one["start"] < two["start"]:
                    assert two["start"] - one["start"] >= 350  # list entries stand inside their list's span


def test_code_is_read_but_never_run(tmp_path):
    folder = write_documents(tmp_path, [])
    trap = repository(
        "trap",
        {"trap/a.py": "raise SystemExit(3)\n\n\nclass Trap:\n    def spring_it(self, delay=33):\n        pass\n"},
    )
    write_jsonl(folder / "code.jsonl", [*repositories(), trap])
    graph, extracted = read_graph(folder, SerialExecutor())
    found = {(h, r, t) for h, r, t in graph.triples.select("head", "relation", "tail_text").iter_rows()}
    assert ("class:trap/a.py:Trap", "default of delay in spring_it", "33") in found
    assert ("class:store/main.py:Store", "base class", "Cart") in found
    tails = dict(graph.triples.filter(graph.triples["relation"] == "base class").select("head", "tail").iter_rows())
    assert tails["class:store/main.py:Store"] == "class:shop/cart.py:Cart"  # through the import, in another repository
    assert [(d.reason, d.record["document_id"]) for d in extracted.dropped] == [("unreadable_code", "code/store")]


def test_dependencies_and_bases_of_known_code_give_the_answers_of_a_hand(tmp_path):
    folder = write_documents(tmp_path, [])
    write_jsonl(folder / "code.jsonl", repositories())
    graph, _ = read_graph(folder, SerialExecutor())
    made = make_questions(graph, DocumentStore([folder / "code.jsonl"]), config(300), 17).questions
    found = {qa.question: qa.answer for qa in made}
    answers = {
        "What is the class directly extended by the class that has a method named `add_item`?": "Base",
        'What is the class directly extended by the class that sets its attribute `kind` to "basket"?': "Base",
        "What is the file that defines the class directly extended by the class that has a method named `open_doors`?": "shop/cart.py",
        "What is the file that defines the class directly extended by the class `Cart` in shop/cart.py?": "shop/base.py",
        "What is the default of the parameter `amount` of the method `add_item` of the only class defined in the file shop/cart.py?": "12",
    }
    asked = answers.keys() & found.keys()
    assert len(asked) >= 3
    assert all(found[question] == answers[question] for question in asked)
    by_hand = {
        "shop/base.py:Base": "shop/cart.py:Cart",
        "shop/cart.py:Cart": "store/main.py:Store",
        "shop/base.py": "shop/cart.py",  # shop/cart.py itself is imported by two files
    }
    broken = [
        hop
        for qa in made
        if "/dependency" in qa.generator
        for hop in qa.proof["hops"]
        if hop["op"] == "back" and hop["row"]["attribute"] in ("imports", "base class")
    ]
    assert len(broken) >= 2
    assert all(by_hand[hop["from"]] == hop["row"]["entity"] for hop in broken)
    assert not any(question.count("CART_LIMIT") > 1 for question in found)


def test_a_corpus_without_facts_says_how_many_were_found_and_what_would_help(tmp_path):
    folder = write_documents(tmp_path / "documents", [document("A novel", "it was a dark night.\n\n" * 50)])
    with pytest.raises(NotEnoughDataError, match=r"multi_hop: 0 questions found, at least 8 needed. Add .*documents"):
        run(folder, tmp_path / "out", 10, min_questions=8)


def test_what_was_merged_is_told_with_its_rule_and_where_it_stands(starter):
    merges = list(iter_json_lines(starter[3] / "merges.jsonl"))
    assert {"normalised", "case", "same number"} <= {merge["rule"] for merge in merges}
    assert sum(read_json(starter[3] / "graph.json")["merges"].values()) == len(merges)
    documents = starter[1]
    for merge in merges:
        text = documents[merge["document_id"]].text[merge["start"] : merge["end"]]
        assert merge["kind"] == "relation" or " ".join(text.split()) == merge["name"]


def test_answers_are_names_dates_or_numbers(starter):
    for qa in starter[2]:
        assert qa.answer_kind in (AnswerKind.TEXT, AnswerKind.NUMBER)
        assert str(qa.answer).strip()
        assert str(qa.answer).casefold() not in {"none", "other", "unknown"}
