"""Questions that a model writes as sentence and SQL: kept only if two translations agree; garbage is a counted drop."""

from __future__ import annotations

import asyncio
import json

import pytest
from fact_corpus import country, document, store_of, write_documents

from stages.common.chat import ChatFailedError, ChatReply, Usage
from stages.common.records import QAPair
from stages.common.shards import SerialExecutor
from stages.synthesis.numerical_corpus import read_figures
from stages.synthesis.numerical_pools import build_pools
from stages.synthesis.numerical_written import Refused, write_questions
from stages.synthesis.rederive import rederive

EXTRA = "\n## Society\n\n### Population\n\n#### total\n\n{}\n"


class ScriptedWriter:
    """A model at the ChatModel seam: `write` makes {question, sql} of the rows, `translate` {sql} of the question."""

    def __init__(self, write, translate=None):
        self.write, self.translate, self.calls = write, translate, 0

    async def complete(self, messages, *, max_tokens, temperature, seed, response_schema=None):
        del max_tokens, temperature, seed, response_schema
        self.calls += 1
        material = json.loads(messages[1]["content"])
        reply = self.write(material["facts"]) if "facts" in material else self.translate(material)
        if isinstance(reply, Exception):
            raise reply
        return ChatReply(reply if isinstance(reply, str) else json.dumps(reply), "stop", Usage(1, 1))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    names = ("Chile", "Peru", "Mali", "Kenya", "Ghana", "Nepal")
    documents = [
        country(name, f"{name} City", f"{number * 311 + 100:,} km", "", EXTRA.format(f"{number * 77_777 + 1000:,}"))
        for number, name in enumerate(names)
    ]
    documents.append(document("A novel", "It was a dark night.\n\n" * 50))
    folder = write_documents(tmp_path_factory.mktemp("documents"), documents)
    return build_pools(read_figures(folder, SerialExecutor()).figures, 6), store_of(folder)


def good(facts):
    entities = list(dict.fromkeys(row["entity"] for row in facts))
    attribute = facts[0]["attribute"]
    return {
        "question": f"What is the mean figure for {attribute} of {', '.join(entities)}, in {facts[0]['unit'] or 'persons'}?",
        "sql": f"SELECT AVG(value) FROM facts WHERE attribute = '{attribute}';",
    }


def translate(material):
    attribute = next(name for name in material["columns"]["attribute"] if f"for {name} of" in material["question"])
    return {"sql": f"SELECT SUM(value) / COUNT(*) FROM facts WHERE attribute = '{attribute}'"}


def written(corpus, writer, wanted=2):
    pools, store = corpus
    return asyncio.run(write_questions(writer, pools, store, wanted, 17))


def test_a_question_on_which_two_translations_agree_is_kept_and_rederives(corpus):
    made = [item for item in written(corpus, ScriptedWriter(good, translate)) if isinstance(item, QAPair)]
    assert made
    for qa in made:
        assert rederive(qa, corpus[1].text_of) == qa.answer
        assert qa.question.endswith("Give the number, rounded to two decimals.")
        assert {row["document_id"] for row in qa.proof["rows"]} == {item.document_id for item in qa.evidence}
        assert all(row["entity"] in qa.question for row in qa.proof["rows"])


def replies(**changes):
    return lambda facts: {**good(facts), **changes}


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda facts: "I would rather not.", "written_malformed"),
        (lambda facts: "[" * 100_000, "written_malformed"),
        (lambda facts: {"question": "Too short?", "sql": "SELECT 1 FROM facts"}, "written_malformed"),
        (lambda facts: ChatFailedError("timeout", "no reply"), "written_timeout"),
        (replies(sql="COPY facts TO 'out.csv'"), "written_sql"),
        (replies(sql="SELECT * FROM read_csv('/etc/passwd')"), "written_sql"),
        (replies(sql="SELECT getenv('HOME') FROM facts"), "written_sql"),
        (replies(sql="SELECT value FROM facts"), "written_no_number"),
        (replies(sql="SELECT entity FROM facts LIMIT 1"), "written_no_number"),
        (replies(sql="SELECT MAX(value) FROM facts WHERE entity = 'Atlantis'"), "written_no_number"),
        (replies(sql="SELECT SUM(value) FROM facts"), "written_disagree"),
        (replies(question="What is the mean coastline of all countries, in metres?"), "written_entities"),
    ],
)
def test_what_is_wrong_is_a_counted_drop(corpus, write, reason):
    made = written(corpus, ScriptedWriter(write, translate), 1)
    assert made
    assert all(isinstance(item, Refused) for item in made)
    assert {item.reason for item in made if isinstance(item, Refused)} <= {reason, "written_oversized"}


def test_a_second_translation_that_is_garbage_or_another_drops_the_question(corpus):
    for second, reason in (
        (lambda material: {"sql": "SELECT COUNT(*) FROM facts"}, "written_disagree"),
        (lambda material: {"sql": "DROP TABLE facts"}, "written_sql"),
        (lambda material: "no", "written_malformed"),
    ):
        made = written(corpus, ScriptedWriter(good, second), 1)
        assert {item.reason for item in made if isinstance(item, Refused)} == {reason}


def test_a_question_that_holds_its_answer_is_dropped(corpus):
    def telling(facts):
        reply = good(facts)
        value = facts[0]["value"]
        return {
            "question": f"{reply['question']} Hint: {value}.",
            "sql": f"SELECT value FROM facts WHERE value = {value}",
        }

    def second(material):
        return {"sql": f"SELECT {material['question'].rsplit(' ', 1)[1].rstrip('.')} FROM facts LIMIT 1"}

    made = written(corpus, ScriptedWriter(telling, second), 1)
    assert {item.reason for item in made if isinstance(item, Refused)} == {"written_answer_in_question"}


def test_calls_are_bounded(corpus):
    writer = ScriptedWriter(lambda facts: "no")
    assert len(written(corpus, writer, 3)) <= 6
    assert writer.calls <= 6
