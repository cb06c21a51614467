"""`longfuse eval`: a table and the files of the evaluate stages, for APIs and model folders, without the DAG."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.eval_inputs import agent_lengths, endpoint_config, open_documents, open_model_folder
from flows.eval_request import EvalRequest
from flows.evaluation import evaluate_request, list_benchmarks
from stages.common.errors import ConfigError, InputError
from stages.common.records import AnswerKind, Category, Document, Evidence, Sample, Span, TaskType
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply
from stages.common.storage import write_jsonl
from tests.tiny_chat_model import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The capital of Norway is Oslo. It lies at a fjord. " * 10
QUESTIONS = 6


def document(category, text):
    return Document(
        id=f"{category}/capitals", category=category, title="capitals", text=text, source="capitals.md", format="markdown",
        tokens=len(text),
    )  # fmt: skip


def sample(number):
    return Sample(
        id=f"numerical-{number}", task_type=TaskType.NUMERICAL, question=f"Question {number}: how many fjords?",
        answer=str(number), answer_kind=AnswerKind.NUMBER, proof={"kind": "quote"}, generator="test", seed=1,
        evidence=[Evidence(document_id="general/capitals", start=25, end=29, quote="Oslo")],
        context=[Span(document_id="general/capitals", start=0, end=200)], context_tokens=200,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_jsonl(folder / "heldout.jsonl", [sample(number) for number in range(QUESTIONS)])
    write_jsonl(folder / "documents.jsonl", [document(Category.GENERAL, TEXT)])
    return folder


def request(data, out, **changes):
    values = EvalRequest(
        benchmarks=("heldout",), model=None, modes=("full_context",), samples=1, limit=None, data=data, hub=False,
        corpus=data, out=out, endpoint=None, endpoint_model=None, endpoint_key_env=None, budget_tokens=None, window=4096,
        judge_endpoint=None, judge_model=None, judge_key_env=None, max_input_tokens=131_072, max_output_tokens=64,
        reasoning_tokens=0, temperature=0.7, top_p=0.95, seed=17, lengths=(), chunk_tokens=None, memory_tokens=None,
        engine="transformers", dtype="float32", threads=1, tokenizer=None,
    )  # fmt: skip
    return replace(values, **changes)


def evaluate(asked):
    lines = []
    return evaluate_request(asked, lines.append), lines


def right_on_even(body):
    number = int(body["messages"][-1]["content"].split("Question ")[1].split(":")[0])
    return str(number) if number % 2 == 0 else "none"


def test_an_api_model_gets_a_table_and_the_same_files(data, tmp_path):
    out = tmp_path / "out"
    with ScriptedChatServer(right_on_even) as server:
        asked = request(data, out, endpoint=server.base_url, endpoint_model="org/api-1")
        code, lines = evaluate(asked)
        first = len(server.requests)
        again, more = evaluate(replace(asked, modes=("full_context", "closed_book"), limit=2))
    assert code == again == 0
    assert lines[0].split() == ["benchmark", "mode", "metric", "n", "k", "score", "95", "%", "interval"]
    assert lines[1].split()[:6] == ["heldout/numerical", "full_context", "numeric_match", "6", "1", "50.0"]
    assert first == QUESTIONS
    assert len(server.requests) == QUESTIONS + 2  # closed book is new, the rest was kept
    assert "2 of 4 questions kept from before" in more[-1]
    scores = json.loads((out / "scores.json").read_text())
    assert scores["model"] == "org_api-1"
    assert [(row["mode"], row["n"]) for row in scores["scores"]] == [("full_context", 2), ("closed_book", 2)]
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 4


def test_an_endpoint_that_gives_up_is_told_and_the_next_run_asks_what_is_left(data, tmp_path):
    def flooded(body):
        if "Question 3" in body["messages"][-1]["content"]:
            return ScriptedReply(status=429, headers={"Retry-After": "3600"})
        return right_on_even(body)

    with ScriptedChatServer(flooded) as server:
        code, lines = evaluate(request(data, tmp_path, endpoint=server.base_url, endpoint_model="m"))
        assert code == 3
        assert "1 unanswered (rate_limited)" in lines[1]
        assert "run the same command again" in lines[-1]
        before = len(server.requests)
        assert evaluate(request(data, tmp_path, endpoint=server.base_url, endpoint_model="m"))[0] == 3
        assert len(server.requests) == before + 1


def test_the_key_comes_from_the_named_variable_and_stands_in_no_file(data, tmp_path, monkeypatch):
    with ScriptedChatServer(right_on_even) as server:
        asked = request(data, tmp_path, endpoint=server.base_url, endpoint_model="m", endpoint_key_env="EVAL_KEY")
        monkeypatch.delenv("EVAL_KEY", raising=False)
        with pytest.raises(ConfigError, match="EVAL_KEY"):
            evaluate(asked)
        monkeypatch.setenv("EVAL_KEY", "s3cr3t-key")
        assert evaluate(asked)[0] == 0
    assert server.authorizations[0] == "Bearer s3cr3t-key"
    assert not any(b"s3cr3t-key" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "name what is evaluated"),
        ({"endpoint": "http://x/v1"}, "belong together"),
        ({"endpoint_key_env": "X"}, "without --endpoint URL"),
        ({"endpoint": "ftp://x", "endpoint_model": "m"}, "base_url must be an http"),
        ({"endpoint": "http://x/v1", "endpoint_model": "m", "model": Path("y")}, "not both"),
        ({"model": Path("nowhere")}, "no config.json"),
        ({"modes": ("open_book",)}, "choose full_context, memory_agent, closed_book"),
        ({"benchmarks": ("heldou",)}, "Did you mean 'heldout'"),
        ({"data": Path("nowhere"), "endpoint": "http://x/v1", "endpoint_model": "m"}, "is no folder"),
        (
            {"corpus": None, "benchmarks": ("needle",), "endpoint": "http://x/v1", "endpoint_model": "m"},
            "none of the benchmarks can be asked",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_told(data, tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        evaluate(replace(request(data, tmp_path / "out"), **changes))


def test_the_list_says_what_is_at_hand(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = list_benchmarks(request(data, None))
    assert any(line.startswith("heldout") and "at hand" in line for line in lines)
    lines = list_benchmarks(request(None, None, corpus=None))
    assert any(line.startswith("heldout") and "missing" in line for line in lines)


def test_a_corpus_of_text_files_serves_generated_benchmarks(tmp_path):
    (tmp_path / "corpus" / "general").mkdir(parents=True)
    (tmp_path / "corpus" / "general" / "a.md").write_text("Some text.")
    (tmp_path / "corpus" / "general" / "b.pdf").write_bytes(b"%PDF")
    documents = open_documents(tmp_path / "corpus", tmp_path / "state")
    assert list(documents) == ["general/a"]
    assert documents["general/a"].text == "Some text."
    with pytest.raises(InputError, match="holds no text"):
        open_documents(tmp_path, tmp_path / "state")


def test_the_agents_lengths_are_the_papers_or_the_same_shares_of_a_smaller_window():
    assert agent_lengths(131_072, None, None)["chunk_tokens"] == 32_768
    assert agent_lengths(8_192, None, None) == {
        "chunk_tokens": 2_048, "memory_tokens": 512, "turn_tokens": 819, "answer_tokens": 512,
    }  # fmt: skip
    assert agent_lengths(8_192, 1_000, 100)["chunk_tokens"] == 1_000


def test_an_endpoint_without_flags_is_none():
    assert endpoint_config(None, None, None, None, "endpoint").model is None


def test_a_model_folder_or_a_stages_data_folder_is_opened(tmp_path):
    folder = tmp_path / "m1"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 2048}')
    opened = open_model_folder(folder)
    assert (opened.name, opened.window_tokens) == ("m1", 2048)
    (folder / "model.safetensors").write_bytes(b"x")
    assert open_model_folder(folder).identity != opened.identity
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="max_position_embeddings"):
        open_model_folder(folder)


def start(data, out, *more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["eval", "--model", str(data / "model"), "--benchmark", "heldout", "--data", str(data), "--corpus"]
    arguments += [str(data), "--out", str(out), "--dtype", "float32", "--threads", "1", *more]
    arguments += ["--max-output-tokens", "24", "--samples", "2", "--mode", "full_context", "--mode", "memory_agent"]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def kept_lines(out):
    return sum(path.read_bytes().count(b"\n") for path in (out / "state").glob("answers-*.jsonl"))


@pytest.mark.slow
def test_a_real_model_killed_twice_gives_the_bytes_of_an_undisturbed_run(data, tmp_path):
    write_tiny_model(data / "model")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(data, whole).wait(timeout=120) == 0
    assert kept_lines(whole) == 2 * QUESTIONS  # with several samples every question is kept alone
    seen = 0
    for lines in (2, 7):
        process = start(data, killed)
        until = time.monotonic() + 60
        while kept_lines(killed) < lines and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert seen <= kept_lines(killed)
        seen = kept_lines(killed)
    process = start(data, killed)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"{seen} of {2 * QUESTIONS} questions kept from before" in printed
    assert kept_lines(killed) == 2 * QUESTIONS
    for name in ("predictions.jsonl", "scores.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
