"""API models: messages in, text out; rate limits are waited for, nonsense is a counted failure, nothing crashes."""

import asyncio

import pytest
from asking_world import planned, question, settings

from stages.common.chat import EndpointError
from stages.common.chat_budget import Budget
from stages.common.chat_cache import ChatCache
from stages.common.chat_client import Endpoint, OpenAIChat, RetryPolicy
from stages.common.rollouts import GenerationRequest
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply
from stages.engines.endpoint_engine import EndpointEngine, EndpointTokenizer
from stages.engines.scripted_engine import ByteTokenizer
from stages.evaluation.asking import endpoint
from stages.evaluation.base import Judge
from stages.evaluation.judging import usual_judge
from stages.evaluation.session import answers_file, evaluate_planned

_QUICK = RetryPolicy(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=0.2)


def client(server, folder, name="m"):
    return OpenAIChat(Endpoint(server.base_url, name, 5.0), ChatCache(folder / "chat"), Budget(), retry=_QUICK)


def evaluate(server, items, folder, made=None, window=4_000, tokenizer=None, judge=None):
    made = made or settings()
    return evaluate_planned(
        endpoint(client(server, folder), EndpointTokenizer(tokenizer), window),
        items,
        made,
        answers_file(folder, "m", made),
        lambda item, result: None,
        concurrent=4,
        judge=judge,
    )


def last_message(body):
    return body["messages"][-1]["content"]


def test_a_question_goes_out_as_messages_with_the_papers_sampling(tmp_path):
    made = settings(temperature=0.7, top_p=0.95, samples=2)
    with ScriptedChatServer(lambda body: "Oslo" if body["seed"] % 2 else "It is Oslo") as server:
        evaluation = evaluate(server, planned(question(answer_prefix=" It is")), tmp_path, made)
    assert [prediction.score for prediction in evaluation.predictions] == [1.0, 1.0]
    assert len(server.requests) == 2
    first, second = server.requests
    assert first["messages"] == [
        {"role": "user", "content": "The capital of Norway is Oslo.\nq1: capital of Norway? Name only.\nIt is"}
    ]
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.7, 0.95, 20)
    assert first["seed"] != second["seed"]
    with ScriptedChatServer(lambda body: "Oslo" if body["seed"] % 2 else "It is Oslo") as again:
        evaluate(again, planned(question(answer_prefix=" It is")), tmp_path / "again", made)
    assert sorted(body["seed"] for body in again.requests) == sorted(body["seed"] for body in server.requests)


def test_long_contexts_are_cut_by_characters_or_by_a_tokenizer(tmp_path):
    items = planned(question(context="START " + "x" * 3_000 + " END"))
    made = settings(max_input_tokens=200)
    with ScriptedChatServer(lambda body: "Oslo") as server:
        (by_characters,) = evaluate(server, items, tmp_path / "a", made).predictions
        (by_bytes,) = evaluate(server, items, tmp_path / "b", made, tokenizer=ByteTokenizer()).predictions
    assert by_characters.context_cut
    assert by_bytes.context_cut
    lengths = [len(last_message(body)) for body in server.requests]
    assert 3 * 150 < lengths[0] <= 3 * 200
    assert 100 < lengths[1] <= 200
    assert last_message(server.requests[1]).startswith("START ")


def test_the_memory_agent_reads_through_an_endpoint(tmp_path):
    def script(body):
        if "<section" in last_message(body):
            return "<memory>Oslo is the capital.</memory><plan>none</plan>"
        return "Oslo" if "Oslo is the capital." in last_message(body) else "unknown"

    items = planned(question(context="The capital of Norway is Oslo. " * 100), mode="memory_agent")
    with ScriptedChatServer(script) as server:
        (prediction,) = evaluate(server, items, tmp_path).predictions
    assert (prediction.prediction, prediction.score) == ("Oslo", 1.0)
    assert prediction.turns == len(server.requests) - 1 >= 3


def test_a_rate_limit_is_waited_for(tmp_path):
    replies = [ScriptedReply(status=429, headers={"Retry-After": "0.05"})] * 3
    with ScriptedChatServer([*replies, "Oslo"]) as server:
        evaluation = evaluate(server, planned(question("q1"), question("q2")), tmp_path)
    assert [prediction.score for prediction in evaluation.predictions] == [1.0, 1.0]
    assert evaluation.rows[0]["unanswered"] == evaluation.rows[0]["failures"] == {}


def test_a_question_that_was_never_answered_is_no_zero_and_is_asked_again(tmp_path):
    def script(body):
        if "q2" in last_message(body):
            return ScriptedReply(status=429, headers={"Retry-After": "3600"})
        return "Oslo"

    items = planned(question("q1"), question("q2"))
    with ScriptedChatServer(script) as server:
        evaluation = evaluate(server, items, tmp_path)
    (row,) = evaluation.rows
    assert (row["n"], row["mean"], row["unanswered"]) == (1, 1.0, {"rate_limited": 1})
    assert evaluation.unanswered == 1
    with ScriptedChatServer(lambda body: "Lima") as server:
        evaluation = evaluate(server, items, tmp_path)
    assert len(server.requests) == 1
    assert [prediction.prediction for prediction in evaluation.predictions] == ["Oslo", "Lima"]
    assert evaluation.rows[0]["n"] == 2


NONSENSE = {
    "no JSON": ScriptedReply(body=b"<html>hello</html>"),
    "no completion": ScriptedReply(body=b'{"choices": []}'),
    "a number as text": ScriptedReply(body=b'{"choices": [{"message": {"content": 7}}]}'),
    "deep": ScriptedReply(body=b"[" * 50_000),
    "refusal": ScriptedReply(status=400, body=b"content policy"),
    "filtered": ScriptedReply(text="x", finish_reason="content_filter"),
    "huge": ScriptedReply(body=b" " * (5 << 20)),
}


def test_nonsense_is_a_counted_failure_of_the_model(tmp_path):
    names = list(NONSENSE)

    def script(body):
        for number, name in enumerate(names):
            if f"q{number}:" in last_message(body):
                return NONSENSE[name]
        return "Oslo"

    items = planned(*(question(f"q{number}") for number in range(len(names) + 1)))
    with ScriptedChatServer(script) as server:
        evaluation = evaluate(server, items, tmp_path)
    (row,) = evaluation.rows
    assert row["failures"] == {"malformed": 3, "oversized": 2, "refused": 2}
    assert row["n"] == len(items)
    assert row["mean"] == pytest.approx(1 / len(items))
    assert evaluation.unanswered == 0
    with ScriptedChatServer(script) as server:
        assert evaluate(server, items, tmp_path).rows == [row]
    assert server.requests == []  # a failure is an answer: it is kept


@pytest.mark.parametrize("text", ["", "\ud83d", "\x00\x1b[2J", "<think>for ever", "💥" * 5_000])
def test_strange_text_is_just_a_wrong_answer(tmp_path, text):
    with ScriptedChatServer(lambda body: text) as server:
        evaluation = evaluate(server, planned(question()), tmp_path)
    assert evaluation.rows[0]["mean"] == 0.0


def test_a_wrong_key_ends_the_evaluation_and_keeps_what_was_answered(tmp_path):
    def script(body):
        return "Oslo" if "q1" in last_message(body) else ScriptedReply(status=401)

    items = planned(question("q1"), *(question(f"x{number}") for number in range(5)))
    with ScriptedChatServer(script) as server, pytest.raises(EndpointError, match="does not accept the key"):
        evaluate(server, items, tmp_path)
    with ScriptedChatServer(lambda body: "Lima") as server:
        evaluation = evaluate(server, items, tmp_path)
    assert evaluation.predictions[0].prediction == "Oslo"


def test_the_score_is_the_maximum_of_rule_and_judge_and_their_agreement_is_told(tmp_path):
    replies = {"q1": "Oslo", "q2": "the city at the fjord", "q3": "Lima", "q4": "Oslo, no Lima", "q5": "Rome"}

    def script(body):
        if body["model"] == "judge":
            text = last_message(body)
            if "Rome" in text:
                return "I cannot say."
            return "Same. \n[[YES]]" if "fjord" in text or "\nOslo\n</candidate" in text else "No.\n[[NO]]"
        return next(reply for name, reply in replies.items() if f"{name}:" in last_message(body))

    items = planned(
        *(question(name, judge=usual_judge("Capital of Norway?", "Oslo")) for name in replies),
        question("q1", benchmark="b"),
    )
    with ScriptedChatServer(script) as server:
        evaluation = evaluate(server, items, tmp_path, judge=client(server, tmp_path, "judge"))
        asked = len([body for body in server.requests if body["model"] == "judge"])
        again = evaluate(server, items, tmp_path, judge=client(server, tmp_path, "judge"))
        # Only the verdict that failed could not be read from the cache as a verdict; its reply was.
        assert len([body for body in server.requests if body["model"] == "judge"]) == asked == 5
    assert again.rows == evaluation.rows
    assert [(p.rule_score, p.judge, p.score) for p in evaluation.predictions] == [
        (1.0, "yes", 1.0),
        (0.0, "yes", 1.0),
        (0.0, "no", 0.0),
        (1.0, "no", 1.0),
        (0.0, "failed", 0.0),
        (1.0, None, 1.0),
    ]
    row, unjudged = evaluation.rows
    assert row["metric"] == "max(contained, judge)"
    assert row["judge"] == {"asked": 5, "yes": 2, "failed": 1, "agreement": 0.5, "rule_only": 1, "judge_only": 1}
    assert (unjudged["metric"], unjudged["judge"]) == ("contained", None)


def test_a_judge_that_decides_alone_overrules_the_rule(tmp_path):
    usual = usual_judge("Capital of Norway?", "Oslo")
    alone = Judge(messages=usual.messages, verdict=usual.verdict, decides_alone=True)
    script = lambda body: "[[NO]]" if body["model"] == "judge" else "Oslo"  # noqa: E731
    with ScriptedChatServer(script) as server:
        judge = client(server, tmp_path, "judge")
        evaluation = evaluate(server, planned(question(judge=alone)), tmp_path, judge=judge)
    assert [(p.rule_score, p.score) for p in evaluation.predictions] == [(1.0, 0.0)]
    assert evaluation.rows[0]["metric"] == "judge"


def test_the_engine_gives_n_answers_with_a_seed_each_and_no_weights(tmp_path):
    async def both(server):
        async with client(server, tmp_path) as chat:
            engine = EndpointEngine(chat, EndpointTokenizer(), 1_000)
            ids = engine.tokenizer.encode_chat([{"role": "user", "content": "hi"}])
            completions = await engine.generate(
                GenerationRequest(prompt_ids=ids, n=2, max_tokens=8, temperature=1.0, seed=3)
            )
            return [engine.tokenizer.decode(completion.token_ids) for completion in completions], engine

    with ScriptedChatServer(lambda body: f"seed {body['seed']}") as server:
        texts, engine = asyncio.run(both(server))
    assert len(set(texts)) == 2
    with pytest.raises(NotImplementedError):
        engine.load_weights([])
    with pytest.raises(NotImplementedError):
        engine.generate_all([])
