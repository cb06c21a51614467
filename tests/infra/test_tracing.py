"""Questions recorded by `infra.tracing`, read back with MLflow's own client."""

from __future__ import annotations

import logging
import threading

import pytest

from infra.errors import InfraError
from infra.mlflow_store import open_store
from infra.settings import load_settings
from infra.tracing import MAX_CHARACTERS, AgentTracer, shortened
from stages.engines.scripted_engine import ScriptedEngine
from stages.memory.agent import MemoryAgent
from stages.memory.results import Turn

TEXT = "The Elbe flows to Hamburg. " * 60


def script(prompt, request, index):
    if "You have read a long text" in prompt:
        return "To Hamburg."
    number = int(prompt.rsplit('<section number="', 1)[1].split('"')[0])
    if number == 2:
        return "no tags at all"
    return f"<memory>memory {number} </memory><plan>plan {number}</plan>"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = load_settings(tmp_path_factory.mktemp("traced"), {})
    made.mlflow_dir.mkdir(parents=True)
    open_store(made)  # a new store takes seconds, of which a test's bounds shall know nothing
    return made


def traces(settings, model):
    client, experiment = open_store(settings)
    found = client.search_traces([experiment], filter_string=f"tags.`longfuse.model` = '{model}'")
    return sorted(found, key=lambda trace: trace.info.request_time)


def tracer_of(settings, model):
    return AgentTracer(settings, "ask", {"longfuse.model": model})


def test_every_turn_is_a_span_under_its_question_in_order(settings):
    agent = MemoryAgent(ScriptedEngine(script), 500, 60, 200, 50)
    tracer = tracer_of(settings, "scripted")
    results = []
    for question in ("Where does the Elbe flow?", "Again?"):
        trace = tracer.question(question, {"mode": "agent"})
        results.append(agent.answer(question, TEXT, on_turn=trace.turn))
        trace.end(results[-1].answer, {"prompt_tokens": results[-1].prompt_tokens, **results[-1].counters})
    tracer.close()
    assert len(traces(settings, "scripted")) == 2
    for trace, result, question in zip(
        traces(settings, "scripted"), results, ("Where does the Elbe flow?", "Again?"), strict=True
    ):
        root, *children = sorted(trace.data.spans, key=lambda span: (span.parent_id is not None, span.start_time_ns))
        assert trace.info.state == "OK"
        assert root.name == trace.info.tags["mlflow.traceName"] == "ask"
        assert (root.inputs, root.outputs) == ({"question": question}, {"answer": "To Hamburg."})
        assert root.attributes["turns"] == len(result.turns) > 3
        assert root.attributes["parse_failures"] == 1
        assert root.attributes["prompt_tokens"] == result.prompt_tokens
        assert [span.name for span in children] == [f"section {turn.number}" for turn in result.turns] + ["answer"]
        assert {span.parent_id for span in children} == {root.span_id}
        tokens = 0
        for span, turn in zip(children, result.turns, strict=False):
            told = span.attributes
            assert (told["chunk_start_token"], told["chunk_end_token"]) == (tokens, tokens + turn.chunk_tokens)
            tokens += turn.chunk_tokens
            assert (told["chunk_start_character"], told["chunk_end_character"]) == (turn.chunk_start, turn.chunk_end)
            assert (told["prompt_tokens"], told["response_tokens"]) == (turn.prompt_tokens, turn.response_tokens)
            assert told["seconds"] == turn.seconds
            assert told["parsed"] is (turn.number != 2)
            assert span.inputs["memory"] == turn.memory_before
            assert span.outputs == {"memory": turn.memory, "plan": turn.plan}
            assert root.start_time_ns <= span.start_time_ns <= span.end_time_ns <= root.end_time_ns
        assert tokens == len(TEXT)
        assert children[1].inputs == {"memory": "memory 1", "plan": "plan 1"} == children[1].outputs  # kept
        assert children[-1].outputs == {"answer": "To Hamburg."}


def test_spans_are_there_while_the_question_is_still_read(settings):
    tracer = tracer_of(settings, "live")
    trace = tracer.question("q", {})
    trace.turn(Turn(1, "m", "p", "", True, False, False, chunk_tokens=3, seconds=0.5))
    sent = threading.Event()
    tracer._later(sent.set)
    assert sent.wait(60)
    client, experiment = open_store(settings)  # a trace gets its tags when it ends
    (found,) = [trace for trace in client.search_traces([experiment]) if trace.info.state == "IN_PROGRESS"]
    assert [span.name for span in found.data.spans] == ["section 1"]
    trace.fail("the client has gone")
    tracer.close()
    (found,) = traces(settings, "live")
    assert found.info.state == "ERROR"
    assert [span.attributes.get("error") for span in found.data.spans if span.parent_id is None] == [
        "the client has gone"
    ]


def test_texts_are_data_of_a_bounded_size(settings):
    evil = '</section>\ud800{"role": "system"}\x00' + "x" * (MAX_CHARACTERS + 100)
    tracer = tracer_of(settings, "evil")
    trace = tracer.question(evil, {})
    trace.turn(Turn(1, evil, evil, evil, False, True, True, memory_before=evil))
    trace.end(evil, {"finish_reason": "length"})
    tracer.close()
    (found,) = traces(settings, "evil")
    (root,) = [span for span in found.data.spans if span.parent_id is None]
    (section,) = [span for span in found.data.spans if span.name == "section 1"]
    for text in (root.inputs["question"], root.outputs["answer"], *section.inputs.values(), *section.outputs.values()):
        assert len(text) < MAX_CHARACTERS + 50
        if text:
            assert text.startswith('</section>?{"role": "system"}\x00xxx')
            assert text.endswith("more characters]")


def test_a_text_within_the_bound_is_kept_whole():
    assert shortened("é" * MAX_CHARACTERS) == "é" * MAX_CHARACTERS
    assert shortened("a" * (MAX_CHARACTERS + 7)) == "a" * MAX_CHARACTERS + " [... 7 more characters]"


def test_a_store_that_is_not_there_is_said_at_once_and_one_that_breaks_fails_nothing(tmp_path, caplog):
    unreachable = load_settings(tmp_path, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    with pytest.raises(InfraError, match="does not answer"):
        AgentTracer(unreachable, "ask")
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database" * 100)
    settings = load_settings(tmp_path, {"MLFLOW_TRACKING_URI": f"sqlite:///{broken}"})
    with caplog.at_level(logging.WARNING, logger="infra.tracing"):
        tracer = AgentTracer(settings, "ask")
        trace = tracer.question("q", {})
        trace.turn(Turn(1, "m", "p", "", True, False, False))
        trace.end("a", {})
        tracer.close()
    assert [record.name for record in caplog.records].count("infra.tracing") == 1
    assert "Answers go on" in caplog.text
