"""Rows of every benchmark in its official form, and how tests load them."""

import json

from stages.common.storage import DocumentStore
from stages.evaluation.base import LoadRequest
from stages.evaluation.benchmarks.catalogue import BENCHMARKS, by_name
from stages.evaluation.benchmarks.ultra_long import ULTRA_LONG

ROWS = {
    "longbench_v2/data.jsonl": [
        {"_id": "l1", "domain": "QA", "difficulty": "hard", "length": "short", "question": "Which?", "choice_A": "a",
         "choice_B": "b", "choice_C": "c", "choice_D": "d", "answer": "B", "context": "It is b."},
        {"_id": "l2", "difficulty": "easy", "length": "long", "question": "Which?", "choice_A": "a",
         "choice_B": "b", "choice_C": "c", "choice_D": "d", "answer": "E", "context": "It is b."},
    ],
    "longbench_v1/qasper.jsonl": [
        {"id": "q1", "dataset": "qasper", "answers": ["5 points", "0.05 F1"], "prompt":
         "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
         "The following are given passages.\nThe gain is 5 points.\n\nAnswer the question based on the given passages. Only "
         "give me the answer and do not output any other words.\n\nQuestion: What is the gain?\nAnswer:"},
        {"id": "q2", "dataset": "qasper", "answers": ["x"], "prompt": "What is this?"},
    ],
    "longbench_v1/passage_count.jsonl": [
        {"id": "c1", "dataset": "passage_count", "answers": ["46"], "prompt":
         "There are some paragraphs below. How many non-repeating paragraphs are there in total?\n\nParagraph 1: x\n\n"
         "Please enter the final count of unique paragraphs after removing duplicates.\n\nThe final answer is: "},
    ],
    "frames/test.jsonl": [{"id": "f1", "question": "Which fish?", "answer": "Moxostoma"}, {"question": "No answer?"}],
    "mrcr/rows.jsonl": [
        {"prompt": json.dumps([{"role": "user", "content": "write a poem"}, {"role": "assistant", "content": "Roses\nare red"},
                               {"role": "user", "content": "Prepend aB3xYz0123 to the 1st poem."}]),
         "answer": "aB3xYz0123Roses\nare red", "random_string_to_prepend": "aB3xYz0123", "n_needles": 2, "n_chars": 40_000},
        {"prompt": "[]", "answer": "x", "random_string_to_prepend": "y", "n_needles": 2},
    ],
    "docmath/data.jsonl": [
        {"question_id": "d1", "question": "Total?", "ground_truth": 1234.5, "paragraphs": ["a 1,000", "b 234.5"]},
    ],
    "tatqa/dev.jsonl": [
        {"table": {"table": [["", "2019"], ["Sales", "10"]]}, "paragraphs": [{"order": 1, "text": "In millions."}],
         "questions": [
             {"uid": "t1", "question": "Growth?", "answer": 12.5, "scale": "percent", "answer_type": "arithmetic"},
             {"uid": "t2", "question": "Who?", "answer": ["we"], "scale": "", "answer_type": "span"}]},
    ],
    "convfinqa/data.jsonl": [
        {"id": "v1", "questions": ["2007?", "2006?", "change?"], "answer": 0.20199, "text": "pages", "table": "a | b"},
    ],
    "musique/data.jsonl": [
        {"id": "2hop__1_2", "question": "Capital?", "answer": "Oslo", "answer_aliases": ["Christiania"], "answerable": True,
         "paragraphs": [{"title": "Hay", "paragraph_text": "hay " * 20, "is_supporting": False},
                        {"title": "Norway", "paragraph_text": "Oslo is the capital.", "is_supporting": True}]},
        {"id": "3hop__1", "question": "?", "answer": "x", "answerable": False, "paragraphs": []},
    ],
    "hotpotqa/data.jsonl": [
        {"_id": "h1", "question": "Medal?", "answer": "Medal of Honor", "type": "bridge", "level": "medium",
         "context": [["Hay", ["hay."]], ["Film", ["He got ", "the Medal of Honor."]]], "supporting_facts": [["Film", 0]]},
    ],
    "qmsum/val.jsonl": [
        {"meeting_id": "m1", "meeting_transcripts": [{"speaker": "A", "content": "Let us begin."}, {"speaker": "B", "content": "Yes."}],
         "general_query_list": [{"query": "Summarize", "answer": "They begin."}],
         "specific_query_list": [{"query": "What did B say?", "answer": "B said yes.", "relevant_text_span": [["1", "1"]]}]},
    ],
    "nocha/book.claims.jsonl": [{"book_title": "book", "claim": "Anne is tall.", "type": False, "index": 3}],
    "longmemeval/data.jsonl": [
        {"question_id": "m1", "question_type": "temporal-reasoning", "question": "How many days?", "answer": "7 days",
         "question_date": "2023/04/12", "answer_session_ids": ["a_1"],
         "evidence_sessions": [{"date": "2023/03/10", "turns": [{"role": "user", "content": "I ran on Monday."}]}]},
        {"question_id": "m2_abs", "question_type": "multi-session", "question": "Which cat?", "answer": "You have no cat",
         "question_date": "2023/04/12", "answer_session_ids": ["a_2"],
         "evidence_sessions": [{"date": "2023/01/01", "turns": [{"role": "user", "content": "I have a dog."}]}]},
    ],
    "bfcl_v4_memory/questions_customer.jsonl": [
        {"id": "b1", "question": [[{"role": "user", "content": "What is my first name?"}]], "ground_truth": ["Michael"],
         "scenario": "customer", "source": "My name is Michael"},
    ],
    "bfcl_v4_memory/prereq_customer.jsonl": [
        {"topic": "Hello", "question": [[{"role": "user", "content": "Hi there. My name is Michael, and I am new."}]]},
    ],
    "mmlu_pro/data.jsonl": [
        {"question_id": 1, "question": "Evolution is", "options": ["a law", "a fact", "N/A"], "answer": "B", "category": "biology"},
        {"question_id": 2, "question": "?", "options": ["a"], "answer": "J", "category": "biology"},
    ],
    "live_math/data.jsonl": [{"id": "r1", "difficulty": "regular", "question": "1 + 400?", "answer": "401"}],
}  # fmt: skip
BABI = "1 Mary moved to the bathroom.\n2 John went to the hallway.\n3 Where is Mary? \tbathroom\t1\nno number\n1 Where? \tx\t1\n"


def request(data, limit=None, lengths=(200,)):
    path = data / "documents.jsonl"
    return LoadRequest(
        data_dir=data, use_hub=False, limit=limit, lengths=lengths, seed=1, count_tokens=lambda text: len(text) // 4,
        documents=DocumentStore([path]) if path.is_file() else None,
    )  # fmt: skip


def load(name, data, limit=None, lengths=(200,)):
    asked = request(data, limit, lengths)
    benchmark = by_name()[name]
    assert benchmark.available(asked).at_hand, benchmark.available(asked).reason
    return benchmark.load(asked)


def prompt_of(question):
    context = question.context()
    return question.prompt(context if isinstance(context, str) else context.read_text())


MADE = ("babilong", "graphwalks", "needle", "ruler")
OTHERS = (
    "heldout",
    "dialogue_recall",
    "mrcr_made",
    "corpus_numerical",
    *MADE,
    *(benchmark.name for benchmark in ULTRA_LONG),
)  # tests of their own
FROM_ROWS = [benchmark.name for benchmark in BENCHMARKS if benchmark.name not in OTHERS]
