"""Rows as the benchmarks' owners publish them: LongBench v1 and v2, DocMath's four subsets, SQuAD's file under RULER."""

import json
import random
from dataclasses import replace

import pytest
from asking_world import ask
from benchmark_rows import ROWS, load, prompt_of, request

from stages.common.errors import InputError
from stages.common.storage import write_jsonl
from stages.evaluation.benchmarks.catalogue import by_name
from stages.evaluation.benchmarks.longbench_v1 import _split
from stages.evaluation.benchmarks.longbench_v1_forms import FORMS
from stages.evaluation.benchmarks.ruler_qa import PARAGRAPH_TASKS, make_qa, read_paragraphs
from stages.evaluation.planning import plan

# --- LongBench v2 with reasoning -------------------------------------------------------------------------------------

ASKED = "What is the correct answer to this question: Which?\nChoices:\n(A) a\n(B) b\n(C) c\n(D) d"


def test_longbench_v2_cot_thinks_with_the_text_and_answers_without_it(data):
    (question,) = load("longbench_v2_cot", data).questions
    assert prompt_of(question)[0]["content"] == (
        "Please read the following text and answer the questions below.\n\n<text>\nIt is b.\n</text>\n\n"
        f"{ASKED}\n\nLet’s think step by step:"
    )
    assert question.answer_tokens == 1_024
    assert question.follow_up.answer_tokens == 128
    (second,) = question.follow_up.messages(" It says b.\n")
    assert second["content"] == (
        "Please read the following text and answer the questions below.\n\nThe text is too long and omitted here.\n\n"
        f"{ASKED}\n\nLet’s think step by step: It says b.\n\nBased on the above, what is the single, most likely answer "
        'choice? Format your response as follows: "The correct answer is (insert answer here)".'
    )
    assert by_name()["longbench_v2_cot"].modes == ("full_context",)


def test_the_second_calls_letter_is_scored_and_the_firsts_is_not(data, tmp_path):
    (question,) = load("longbench_v2_cot", data).questions
    prompts = []

    def script(prompt, request, index):
        prompts.append(prompt)
        if "Based on the above" not in prompt:
            return "The correct answer is (A) at first"
        return "The correct answer is (B)." if "(A) at first" in prompt else "none"

    asked = ask([plan(question, "full_context")], tmp_path, script=script).evaluation
    assert [("<text>" in prompt, "It is b." in prompt) for prompt in prompts] == [(True, True), (False, False)]
    (row,) = asked.rows
    assert (row["benchmark"], row["mean"]) == ("longbench_v2_cot", 1.0)


# --- LongBench v1 ----------------------------------------------------------------------------------------------------


def official(task, number=0, **changes):
    row = {"_id": f"{task}{number}", "dataset": task, "input": "Who {x}?", "context": "A text {with} braces.\n\nEnd.",
           "answers": ["Oslo"], "length": 5, "language": "en", "all_classes": None}  # fmt: skip
    return {**row, **changes}


def test_official_rows_of_every_task_become_the_official_prompts(tmp_path):
    rows = [official(task) for task in FORMS]
    rows[-1] |= {"answers": ["7"], "input": ""}  # passage_count
    write_jsonl(tmp_path / "longbench_v1" / "all.jsonl", rows)
    loaded = load("longbench_v1", tmp_path)
    assert loaded.broken == []
    assert [question.benchmark for question in loaded.questions] == [f"longbench_v1/{task}" for task in FORMS]
    for task, question in zip(FORMS, loaded.questions, strict=True):
        assert question.id == f"{task}0"
        assert question.context() == "A text {with} braces.\n\nEnd."
        finished = prompt_of(question)[0]["content"]
        assert _split(finished)[1] == question.context(), task  # as if it had come as a finished prompt
        if task not in ("passage_count", "passage_retrieval_en"):
            assert question.question == "Who {x}?"
    by_task = {question.benchmark.split("/")[1]: question for question in loaded.questions}
    assert prompt_of(by_task["musique"])[0]["content"] == (
        "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
        "The following are given passages.\nA text {with} braces.\n\nEnd.\n\nAnswer the question based on the given "
        "passages. Only give me the answer and do not output any other words.\n\nQuestion: Who {x}?\nAnswer:"
    )
    qasper = prompt_of(by_task["qasper"])[0]["content"]
    assert qasper.startswith("You are given a scientific article and a question. Answer the question as concisely")
    assert "\n\nArticle: A text {with} braces.\n\nEnd.\n\n Answer the question based on the above article" in qasper
    assert by_task["passage_count"].score("7") == 1.0


def test_a_finished_prompt_and_its_official_row_are_the_same_question(data, tmp_path):
    finished = {row["dataset"]: row for row in (ROWS["longbench_v1/passage_count.jsonl"][0],)}["passage_count"]
    context = _split(finished["prompt"])[1]
    assert context == "Paragraph 1: x"
    write_jsonl(
        tmp_path / "longbench_v1" / "c.jsonl", [official("passage_count", context=context, input="", answers=["46"])]
    )
    (ours,) = load("longbench_v1", tmp_path).questions
    end = "Please enter the final count of unique paragraphs after removing duplicates."
    assert prompt_of(ours)[0]["content"].split(end)[0].endswith("paragraphs are there in total?\n\nParagraph 1: x\n\n")
    assert ours.score("46") == 1.0


def test_the_archives_other_files_are_passed_over_and_bad_rows_named(tmp_path):
    folder = tmp_path / "longbench_v1"
    write_jsonl(
        folder / "hotpotqa.jsonl", [official("hotpotqa"), official("hotpotqa", 1, context=" "), {"dataset": "new"}]
    )
    write_jsonl(folder / "hotpotqa_e.jsonl", [official("hotpotqa", 2)])
    write_jsonl(folder / "gov_report.jsonl", [official("gov_report")])
    loaded = load("longbench_v1", tmp_path)
    assert [question.id for question in loaded.questions] == ["hotpotqa0"]
    assert [(row.where, row.reason.split(":")[1].strip().split(" is")[0]) for row in loaded.broken] == [
        ("hotpotqa.jsonl:2", "no context"),
        ("hotpotqa.jsonl:3", "the task 'new'"),
    ]


# --- DocMath ---------------------------------------------------------------------------------------------------------

SUBSETS = ("simpshort", "simplong", "compshort", "complong")


def docmath_row(subset, number, truth):
    return {
        "question_id": f"{subset}-testmini-{number}",
        "question": "Total?",
        "ground_truth": truth,
        "paragraphs": ["a"],
    }


def test_docmath_reads_all_four_subsets_and_tells_them_apart(tmp_path):
    for subset in SUBSETS:
        path = tmp_path / "docmath" / f"{subset}_testmini.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([docmath_row(subset, number, 4.5) for number in range(2)]))
    loaded = load("docmath", tmp_path)
    assert loaded.broken == []
    assert len(loaded.questions) == 8
    assert {question.benchmark for question in loaded.questions} == {
        "docmath"
    }  # one accuracy over all 800, as published
    assert {question.groups["subset"] for question in loaded.questions} == set(SUBSETS)


def test_docmaths_four_splits_are_fetched_together(tmp_path):
    pytest.importorskip("datasets")
    from dataclasses import replace

    from stages.evaluation.benchmarks import docmath

    hub = tmp_path / "hub"
    files = "".join(f"  - split: {subset}_testmini\n    path: {subset}.jsonl\n" for subset in SUBSETS)
    for number, subset in enumerate(SUBSETS):
        write_jsonl(hub / f"{subset}.jsonl", [docmath_row(subset, number, 1.5)])
    (hub / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    source = replace(docmath._DOCMATH, hub=str(hub))
    rows, _ = source.rows(replace(request(tmp_path), data_dir=None, use_hub=True))
    assert [row["question_id"] for _, row in rows] == [f"{subset}-testmini-{n}" for n, subset in enumerate(SUBSETS)]


def test_a_docmath_answer_may_be_yes_or_no(tmp_path):
    rows = [docmath_row("compshort", 0, True), docmath_row("compshort", 1, "unknown")]
    write_jsonl(tmp_path / "docmath" / "data.jsonl", rows)
    loaded = load("docmath", tmp_path)
    (question,) = loaded.questions
    assert question.score("Therefore, the answer is (yes).") == 1.0
    assert question.score("Therefore, the answer is (no).") == question.score("the answer is 1") == 0.0
    assert "neither a number nor yes or no" in loaded.broken[0].reason


# --- SQuAD under RULER -----------------------------------------------------------------------------------------------


def squad_file(folder, articles):
    """SQuAD 2.0's official form."""
    data = [
        {
            "title": title,
            "paragraphs": [
                {"context": context, "qas": [
                    {"id": f"{title}{n}{k}", "question": asked, "is_impossible": not golds, "answers": [{"text": gold, "answer_start": 0} for gold in golds]}
                    for k, (asked, golds) in enumerate(questions)
                ]}
                for n, (context, questions) in enumerate(paragraphs)
            ],
        }
        for title, paragraphs in articles.items()
    ]  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "dev-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": data}))


def paragraphs_of(tmp_path):
    return read_paragraphs("qa_1", PARAGRAPH_TASKS["qa_1"], request(tmp_path))


def test_squads_official_file_gives_questions_with_answers_and_all_paragraphs(tmp_path):
    squad_file(tmp_path / "squad", {
        "Norway": [("Oslo is the capital.", [("Capital?", ["Oslo", "Oslo", "oslo city"]), ("Which moon?", [])]),
                   ("Bergen rains.", [("Where does it snow?", [])])],
        "Peru": [("Lima lies at the sea.", [("Where is Lima?", ["at the sea"])])],
    })  # fmt: skip
    found, broken = paragraphs_of(tmp_path)
    assert broken == []
    assert [(question, golds) for question, golds, _, _ in found.questions] == [
        ("Capital?", ("Oslo", "oslo city")),
        ("Where is Lima?", ("at the sea",)),
    ]
    assert found.texts == ["Oslo is the capital.", "Bergen rains.", "Lima lies at the sea."]
    assert found.articles == {"Norway": [0, 1], "Peru": [2]}


def test_paragraphs_of_the_same_article_are_the_first_distractors(tmp_path):
    articles = {f"A{n}": [(f"word{n}x{k} " * 8, []) for k in range(6)] for n in range(9)}
    articles["A4"][2] = (articles["A4"][2][0], [("Which?", ["word4x2"])])
    squad_file(tmp_path / "squad", articles)
    found, _ = paragraphs_of(tmp_path)
    size = len(articles["A4"][2][0]) // 4 + 8  # of a paragraph, all have the same
    seen = set()
    for seed in range(20):
        task = make_qa(found, 4 * size, random.Random(seed), count=lambda text: len(text) // 4)
        assert task.golds == ("word4x2",)
        assert task.context.count("Document ") == 4
        assert all(line.startswith("word4") for line in task.context.splitlines() if line.startswith("word"))
        seen.add(task.context)
        wide = make_qa(found, 9 * size, random.Random(seed), count=lambda text: len(text) // 4)
        lines = [line for line in wide.context.splitlines() if line.startswith("word")]
        assert len(lines) == 9
        assert sum(line.startswith("word4") for line in lines) == 6  # the whole article, then others
    assert len(seen) > 10


@pytest.mark.parametrize(
    "part", [{"context": "c"}, {"context": "c", "qas": ["no question"]}, {"qas": [{"question": "q", "answers": []}]}, 7]
)
def test_damaged_parts_of_an_article_are_broken_rows(tmp_path, part):
    (tmp_path / "squad").mkdir()
    good = {"context": "Oslo is it.", "qas": [{"question": "Which?", "answers": [{"text": "Oslo"}]}]}
    (tmp_path / "squad" / "d.json").write_text(json.dumps({"data": [{"title": "t", "paragraphs": [part, good]}]}))
    found, broken = paragraphs_of(tmp_path)
    assert [question[0] for question in found.questions] == ["Which?"]
    assert [row.where for row in broken] == ["d.json:1/0"]


# --- LongMemEval -----------------------------------------------------------------------------------------------------

HISTORY = [
    [{"role": "user", "content": "My dog is called Rex.", "has_answer": True}],
    [{"role": "user", "content": "Hi."}],
]
MEMORIES = [
    {"question_id": "m1", "question_type": "single-session-user", "question": "What is my dog called?", "answer": "Rex",
     "question_date": "2023/05/30 (Tue) 23:40", "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 04:00"],
     "haystack_session_ids": ["a", "b"], "haystack_sessions": HISTORY, "answer_session_ids": ["a"]},
]  # fmt: skip
MEMORIES.append(MEMORIES[0] | {"question_id": "m2_abs", "question": "How many cats have I?", "answer": 3})  # a number


def test_longmemevals_file_is_fetched_from_the_hub_and_read_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "longmemeval_s_cleaned.json").write_text(json.dumps(MEMORIES))
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda name, file, **more: asked.append((name, file, more)) or str(tmp_path / file),
    )
    benchmark, wanted = by_name()["longmemeval"], replace(request(tmp_path / "none"), use_hub=True, limit=None)
    assert benchmark.available(wanted).reason == "from the hub: xiaowu0162/longmemeval-cleaned"
    loaded = benchmark.load(wanted)
    assert asked == [("xiaowu0162/longmemeval-cleaned", "longmemeval_s_cleaned.json", {"repo_type": "dataset"})]
    assert [(question.id, question.gold, question.groups["abstention"]) for question in loaded.questions] == [
        ("m1", "Rex", "no"), ("m2_abs", "3", "yes"),
    ]  # fmt: skip
    assert loaded.questions[0].context().startswith("[Session of 2023/05/20 (Sat) 02:21]\nuser: My dog is called Rex.")


def test_a_memory_without_a_usable_answer_is_a_broken_row(tmp_path):
    odd = [
        MEMORIES[0] | {"question_id": f"o{n}", "answer": answer} for n, answer in enumerate((None, ["Rex"], {}, " "))
    ]
    (tmp_path / "longmemeval").mkdir()
    (tmp_path / "longmemeval" / "s.json").write_text(json.dumps([MEMORIES[0], *odd]))
    loaded = by_name()["longmemeval"].load(request(tmp_path))
    assert [question.id for question in loaded.questions] == ["m1"]
    assert [row.where for row in loaded.broken] == ["s.json:2", "s.json:3", "s.json:4", "s.json:5"]


def test_a_hub_that_does_not_answer_is_told_with_the_remedy(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(
        InputError, match=r"longmemeval_s_cleaned.json of .* cannot be had from the hub \(no route\).*--data DIR"
    ):
        by_name()["longmemeval"].load(replace(request(tmp_path / "none"), use_hub=True))
