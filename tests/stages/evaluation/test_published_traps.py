"""Traps of the published rules that are easy to miss, each by hand, through the benchmark's own question."""

import difflib
import json
import re

import pytest
from benchmark_rows import load, request
from evaluation_examples import document

from stages.common.records import Category
from stages.common.storage import write_jsonl
from stages.evaluation.benchmarks import graphwalks
from stages.evaluation.benchmarks.catalogue import by_name
from stages.evaluation.benchmarks.graphwalks import breadth_first, final_set_f1, parents
from stages.evaluation.scoring import bfcl_memory, integer_share
from stages.rewards.rules import sequence_match_ratio


def test_mrcr_keeps_difflibs_autojunk():
    # In a gold of 200 characters or more, characters that are more than 1 % of it are "popular" and found nowhere at first:
    # of this pair nothing then matches, although nearly all of it is equal.
    prefix = "aB3dE5gH7k"
    body = "ab" * 150
    response, gold = prefix + "b" + body, prefix + body
    without = difflib.SequenceMatcher(None, "b" + body, body, autojunk=False).ratio()
    assert without == pytest.approx(2 * 300 / 601)
    assert sequence_match_ratio(response, gold, prefix) == 0.0
    short = "ab" * 99  # 198 characters: no autojunk
    assert sequence_match_ratio(prefix + "b" + short, prefix + short, prefix) == pytest.approx(2 * 198 / 397)


def test_mrcr_looks_at_the_length_of_the_gold_for_autojunk_since_it_comes_second():
    prefix, long, short = "aB3dE5gH7k", "ab" * 150, "ab" * 50
    assert sequence_match_ratio(prefix + "b" + long, prefix + short, prefix) == pytest.approx(2 * 100 / 401)
    assert sequence_match_ratio(prefix + "b" + short, prefix + long, prefix) == 0.0


def test_mrcr_strips_no_blank_behind_the_string():
    # " x" against "x": one of the two characters matches, 2 * 1 / 3.
    assert sequence_match_ratio("aB3dE5gH7k x", "aB3dE5gH7kx", "aB3dE5gH7k") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("response", "gold", "score"),
    [
        ("I took the 'Blue Sky' tour.", 'the "Blue Sky" tour', 1.0),  # single quotes become double ones, on both sides
        ("It is called 'Blue Sky'", "'Blue Sky'", 0.0),  # no word boundary lies at a quote's outer side
        ('O"Brien', "O'Brien", 1.0),
        ("OBrien", "O'Brien", 0.0),  # they are not removed
        ("3,000 (three-thousand)", "3000", 1.0),
        ("snake_case and *stars* ^ /", "snakecase", 1.0),
        ("30001", "3000", 0.0),
        ("the answer: yes!", "YES", 1.0),
    ],
)
def test_bfcl_quotes_and_signs(response, gold, score):
    assert bfcl_memory(response, [gold]) == score


def test_bfcl_takes_any_of_the_possible_answers():
    assert bfcl_memory("Berlin", ["Paris", "Berlin"]) == 1.0


def test_rulers_qa_takes_any_gold_and_the_other_tasks_the_share(tmp_path):
    rows = [
        {"question": "When?", "answers": {"text": ["1944", "in 1944", "June 6"]}, "context": "It was June 6 in 1944."}
    ]
    write_jsonl(tmp_path / "squad" / "dev.jsonl", rows)
    asked = by_name()["ruler"].load(request(tmp_path, limit=None, lengths=(40,))).questions
    qa = next(question for question in asked if question.benchmark == "ruler/qa_1/40")
    assert qa.metric == "any_contained"
    assert qa.gold == ["1944", "in 1944", "June 6"]
    assert qa.score("JUNE 6, I think, or 1066") == 1.0  # one is enough, case ignored, extra text costs nothing
    assert qa.score("in 19444") == 1.0  # substrings, not words
    assert qa.score("194 4") == 0.0
    chain = next(question for question in asked if question.benchmark == "ruler/vt/40")
    assert chain.metric == "share_contained"
    assert chain.score(" ".join(name.lower() for name in chain.gold[:2]) + " and more") == pytest.approx(2 / 5)


def test_the_three_worked_examples_of_graphwalks_prompt_are_right_by_its_own_rules():
    text = graphwalks._INSTRUCTION
    edges = [tuple(line.split(" -> ")) for line in text.splitlines() if re.fullmatch(r"\w+ -> \w+", line)]
    assert edges == [("uvwx", "alke"), ("abcd", "uvwx"), ("abcd", "efgh"), ("efgh", "uvwx")]
    examples = re.findall(r"Operation: (.*)\n(Final Answer: .*)", text)
    golds = [breadth_first(edges, "abcd", 1), breadth_first(edges, "alke", 1), parents(edges, "uvwx")]
    assert golds == [{"uvwx", "efgh"}, set(), {"abcd", "efgh"}]
    assert [operation for operation, _ in examples] == [
        "Perform a BFS from node abcd with depth 1.",
        "Perform a BFS from node alke with depth 1.",
        "Find the parents of node uvwx.",
    ]
    for (_, answer), gold in zip(examples, golds, strict=True):
        assert final_set_f1(answer, frozenset(gold)) == 1.0
    assert final_set_f1(examples[0][1], frozenset(golds[2])) == pytest.approx(2 * 1 / 4)


def test_graphwalks_counts_a_node_once_and_reads_no_list_before_the_last_line():
    gold = frozenset({"a1", "b2"})
    assert final_set_f1("Final Answer: [a1, a1, b2]", gold) == 1.0
    assert final_set_f1("Final Answer: [a1, b2]\nFinal Answer: [a1]", gold) == pytest.approx(2 / 3)


def test_passage_counts_compare_whole_numbers():
    assert integer_share("There are 46 of 50", "46") == 0.5
    assert integer_share("460", "46") == 0.0
    assert integer_share("4 6", "46") == 0.0


def test_babilong_ignores_what_the_question_names_and_all_behind_the_first_stop(tmp_path):
    babi = tmp_path / "babilong"
    babi.mkdir()
    lines = [
        "1 Mary went to the office.",
        "2 Mary went to the garden.",
        "3 Where was Mary before the garden? \toffice\t1 2",
    ]
    lines += ["1 John went to the garden.", "2 Where is John? \tgarden\t1"]
    (babi / "qa3_three-supporting-facts_test.txt").write_text("\n".join(lines) + "\n")
    write_jsonl(tmp_path / "documents.jsonl", [document(Category.GENERAL, "prose", "It was a bright day. " * 50)])
    questions = {question.id: question for question in load("babilong", tmp_path).questions}
    before = questions["qa3-3"]
    assert before.score("Before the garden she was in the OFFICE. Then the garden.") == 1.0
    assert before.score("The garden.") == 0.0
    assert questions["qa3-5"].score("The office or the garden.") == 0.0


@pytest.mark.parametrize(
    ("response", "gold", "score"),
    [
        ("TRUE", "TRUE", 1.0),
        ("I first thought FALSE.\n\n**TRUE**", "TRUE", 1.0),
        ("It is true that Anne is tall, so FALSE", "TRUE", 0.0),  # both on the last line
    ],
)
def test_nocha_reads_the_last_line_with_a_verdict(tmp_path, response, gold, score):
    claims = [
        {"book_title": "b", "claim": f"Anne is {how}.", "type": type_, "index": 1}
        for how, type_ in (("tall", True), ("small", False))
    ]
    write_jsonl(tmp_path / "nocha" / "b.claims.jsonl", claims)
    (tmp_path / "nocha" / "b.txt").write_text("Anne is tall.")
    questions = {question.gold: question for question in load("nocha", tmp_path).questions}
    assert questions[gold].score(response) == score
    assert {question.pair for question in questions.values()} == {"b-1"}


def test_longmemeval_knows_the_official_file_by_its_own_haystack(tmp_path):
    row = {
        "question_id": "x_abs", "question_type": "knowledge-update", "question": "Where?", "answer": "Oslo",
        "question_date": "2023/05/01", "haystack_dates": ["2023/04/02", "2023/04/01"],
        "haystack_sessions": [[{"role": "user", "content": "later"}], [{"role": "user", "content": "earlier"}]],
    }  # fmt: skip
    path = tmp_path / "longmemeval" / "s.json"
    path.parent.mkdir()
    path.write_text(json.dumps([row]))
    (question,) = load("longmemeval", tmp_path, lengths=(100, 200)).questions  # once, whatever the lengths
    assert question.benchmark == "longmemeval"
    assert question.context() == "[Session of 2023/04/01]\nuser: earlier\n\n[Session of 2023/04/02]\nuser: later"
    assert question.groups == {"type": "knowledge-update", "abstention": "yes"}
