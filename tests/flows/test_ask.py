"""`longfuse ask` with a real tiny model: where the answer goes, what is refused, documents of several kinds."""

from __future__ import annotations

import json

import pytest

from flows.ask import AskRequest, ask, trace_lines
from flows.ask_documents import one_text
from flows.model_options import split_by
from flows.tracing import tracing_settings
from infra.mlflow_store import open_store
from stages.common.errors import ConfigError, InputError, LongfuseError
from stages.common.storage import write_model_pointer
from stages.memory.results import Turn
from tests.stages.rl.tiny_world import write_model_folder

TEXT = "The Elbe flows to Hamburg.\n\nThe Rhine flows to Rotterdam.\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "data"
    write_model_folder(folder)
    if not (folder / "model.json").is_file():
        write_model_pointer(folder, folder / "model")
    return folder


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "rivers.md"
    path.write_text(TEXT * 4)
    return path


def request_of(model, *documents, **changes):
    options = {"question": "Where does the Elbe go?", "model": model, "documents": documents, "dtype": "float32"}
    lengths = {"chunk_tokens": 60, "memory_tokens": 16, "answer_tokens": 8, "threads": 1}
    return AskRequest(**(options | lengths | changes))


def test_the_answer_goes_to_standard_output_and_sections_to_standard_error(model, document, capsys):
    assert ask(request_of(model, document, as_json=True, trace=True)) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["question"] == "Where does the Elbe go?"
    assert told["turns"] == len(told["trace"]) > 2
    assert told["trace"][-1]["chunk_end"] == len(TEXT * 4)
    assert f"section {told['turns']}, 100% read" in captured.err


@pytest.mark.slow  # a new MLflow store takes seconds
def test_the_turns_are_recorded_in_the_store_that_was_named(model, document, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path / 'traces.db'}"
    assert ask(request_of(model, document, as_json=True, trace_mlflow=True, tracking_uri=uri)) == 0
    turns = json.loads(capsys.readouterr().out)["turns"]
    client, experiment = open_store(tracing_settings(uri))
    (trace,) = client.search_traces([experiment])
    names = [span.name for span in sorted(trace.data.spans, key=lambda span: (span.start_time_ns, -span.end_time_ns))]
    assert names == ["ask", *(f"section {number}" for number in range(1, turns + 1)), "answer"]
    assert trace.info.tags["longfuse.model"] == model.parent.name
    (root,) = [span for span in trace.data.spans if span.parent_id is None]
    assert root.attributes["documents"] == ["rivers.md"]
    assert root.attributes["turns"] == turns


def test_one_pass_where_it_fits_and_numbers_where_it_does_not(model, document, capsys):
    assert ask(request_of(model, document, full_context=True, as_json=True)) == 0
    assert json.loads(capsys.readouterr().out)["turns"] == 0
    with pytest.raises(
        InputError, match=r"the documents and the question are \d+ tokens, with 8 for the answer .* window of 256"
    ):
        ask(request_of(model, document, full_context=True, window=256))


def test_the_loaded_model_is_asked_to_split_the_question_and_what_it_says_is_checked(model, document, capsys):
    told = {}
    for way in ("rules", "model"):
        options = {"question": "Where does it go? Answer with one word.", "split_question": way, "window": 3_000}
        assert ask(request_of(model, document, as_json=True, **options)) == 0
        told[way] = json.loads(capsys.readouterr().out)
    # A random model splits nothing: the rules stand, and its tokens are counted.
    assert told["model"]["answer"] == told["rules"]["answer"]
    assert told["model"]["prompt_tokens"] > told["rules"]["prompt_tokens"]
    assert told["model"]["response_tokens"] > told["rules"]["response_tokens"]


def test_another_way_to_split_is_refused():
    assert [split_by(value) for value in ("rules", "model", "off")] == ["rules", "model", "off"]
    with pytest.raises(ConfigError, match="rules, model or off"):
        split_by("llm")


def test_what_cannot_be_used_is_refused_with_the_remedy(model, document, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"is no file\. Give --document"):
        ask(request_of(model, tmp_path / "absent.txt"))
    with pytest.raises(ConfigError, match="the question is empty"):
        ask(request_of(model, document, question="  "))
    with pytest.raises(ConfigError, match="is no model folder"):
        ask(request_of(tmp_path, document))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="name a model folder with --model"):
        ask(request_of(None, document))


def test_several_documents_and_formats_become_one_text(tmp_path, document):
    (tmp_path / "page.html").write_text(
        "<html><body><h1>Tea</h1><p>Tea costs 2 euros.</p><script>no()</script></body></html>"
    )
    (tmp_path / "scratch").mkdir()
    assert one_text([document], tmp_path / "scratch") == document
    text = one_text([document, tmp_path / "page.html"], tmp_path / "scratch").read_text()
    assert text.startswith("# rivers.md\n\nThe Elbe")
    assert "# page.html" in text
    assert "Tea costs 2 euros." in text
    assert "no()" not in text
    (tmp_path / "bad.pdf").write_bytes(b"no pdf")
    with pytest.raises(InputError, match=r"bad\.pdf holds no text that can be read"):
        one_text([tmp_path / "bad.pdf"], tmp_path / "scratch")
    (tmp_path / "tool.bin").write_bytes(b"\0")
    with pytest.raises(InputError, match="unsupported_format"):
        one_text([tmp_path / "tool.bin"], tmp_path / "scratch")


def test_the_trace_shows_what_changed_and_no_control_characters():
    turn = Turn(
        2, "red\x1b[31m", "look", "", True, False, False, memory_before="", chunk_start=5, chunk_end=9, chunk_tokens=4
    )
    lines = trace_lines([turn])
    assert lines[0].startswith("--- section 2: characters 5 to 9, 4 tokens")
    assert lines[1:] == ["memory: red\\x1b[31m", "plan: look"]


def test_the_remote_engine_is_the_one_that_the_environment_names(model, document, monkeypatch):
    monkeypatch.setenv("LONGFUSE_ENGINE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(LongfuseError, match=r"127\.0\.0\.1:9"):
        ask(request_of(model, document, engine="remote"))
    monkeypatch.delenv("LONGFUSE_ENGINE_URL")
    with pytest.raises(ConfigError, match="LONGFUSE_ENGINE_URL"):
        ask(request_of(model, document, engine="remote"))


def test_a_question_that_is_no_valid_text_is_refused(model, document):
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        ask(request_of(model, document, question="Who is \udcff?"))  # what a shell hands over for the byte 0xff
