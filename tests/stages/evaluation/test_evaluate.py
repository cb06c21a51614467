"""The evaluation flow: what is asked, how it is scored, what is written, and what happens after a crash."""

import json
import logging

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stages.common.config import TrainConfig
from stages.common.errors import InputError
from stages.common.records import AnswerKind, Category, Document, Evidence, Sample, Span, TaskType
from stages.common.storage import DocumentStore, md5_of_folder, read_json, write_jsonl, write_model_pointer
from stages.engines.scripted_engine import ByteTokenizer, ScriptedEngine
from stages.evaluation import asking
from stages.evaluation.asking import ask_all, chunks_of
from stages.evaluation.base import CUT_MARK, full_context_prompt
from stages.evaluation.benchmarks.heldout import evidence_position, heldout_questions
from stages.evaluation.config import EvaluatePlan, EvaluateSharedConfig, EvaluateStage
from stages.evaluation.evaluate import build_questions, run
from stages.evaluation.scoring import score_rows
from stages.memory.config import MemoryAgentConfig

CAPITALS = "The capital of Norway is Oslo. It lies at a fjord. The capital of Peru is Lima. It lies at the sea. " * 8
CHAT = "# Session\n\n" + "\n".join(
    f"{'ann' if i % 2 else 'bob'}: this is {word} turn number {word}"
    for i, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    )
)
SEED = 17


def document(category, name, text):
    return Document(
        id=f"{category}/{name}", category=category, title=name, text=text, source=f"{category}/{name}.md",
        format="markdown", tokens=len(text),
    )  # fmt: skip


def sample(number, task=TaskType.MULTI_HOP, kind=AnswerKind.TEXT, answer="Oslo", **changes):
    values = {
        "id": f"{task.value}-{number}", "task_type": task, "question": f"Question {number}: capital of Norway?",
        "answer": answer, "answer_kind": kind, "proof": {"kind": "quote"}, "generator": "test", "seed": 1,
        "evidence": [Evidence(document_id="general/capitals", start=25, end=29, quote="Oslo")],
        "context": [Span(document_id="general/capitals", start=0, end=100)], "context_tokens": 100,
    }  # fmt: skip
    return Sample(**{**values, **changes})


def stage_config(**changes):
    shared = {
        "max_input_tokens": 1200, "max_output_tokens": 40, "temperature": 0.0, "top_p": 1.0,
        "needle_tokens": [200, 400], "dialogue_tokens": [300],
        "agent": MemoryAgentConfig(chunk_tokens=300, memory_tokens=40, turn_tokens=60, answer_tokens=30),
    }  # fmt: skip
    plan = {
        "questions_per_task": {"multi_hop": 3, "numerical": 1, "multiple_choice": 0},
        "needle_questions": 2, "dialogue_questions": 1, "agent_questions_per_task": 1,
    }  # fmt: skip
    for section in (shared, plan):
        section.update({key: value for key, value in changes.items() if key in section})
    return EvaluateStage(
        shared=EvaluateSharedConfig(**shared),
        plan=EvaluatePlan(**plan),
        train=TrainConfig(cpu_threads=1, compute_dtype="float32"),
        seed=SEED,
    )


SAMPLES = [
    sample(1),
    sample(2, TaskType.NUMERICAL, AnswerKind.NUMBER, "42"),
    sample(3),
    sample(4, TaskType.MULTIPLE_CHOICE, AnswerKind.LETTER, "B", choices=["Lima", "Oslo", "Rome", "Bern"]),
    sample(5, answer="Lima"),
    sample(6),
]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    write_jsonl(
        path,
        [document(Category.GENERAL, "capitals", CAPITALS), document(Category.DIALOGUES, "chat", CHAT)],
    )
    return DocumentStore([path])


def oracle(prompt, request, index):
    """Reads the needle, says Oslo and 42 otherwise."""
    if "<section" in prompt:
        return "<memory>Oslo</memory><plan>none</plan>"
    if "magic number for" in prompt:
        return prompt.split(" is: ")[1][:7] if " is: " in prompt else "unknown"
    return "Oslo 42"


def ask(questions, state_dir, config=None, script=oracle, limit=None):
    """Predictions and the engine; stops with KeyboardInterrupt after `limit` calls of the script."""
    engines = []
    calls = []

    def counted(prompt, request, index):
        calls.append(prompt)
        if limit is not None and len(calls) > limit:
            raise KeyboardInterrupt
        return script(prompt, request, index)

    def make():
        engines.append(ScriptedEngine(counted))
        return engines[-1]

    config = config or stage_config()
    progress = []
    predictions = ask_all(make, questions, config.shared, SEED, state_dir, lambda n, p: progress.append((n, len(p))))
    return predictions, engines, progress


def built(documents, config=None, samples=SAMPLES):
    return build_questions(config or stage_config(), samples, documents, ByteTokenizer())


def test_the_plan_says_what_is_asked_and_fewer_samples_are_fewer_questions(documents):
    asked = [(q.benchmark, q.mode, q.sample.id) for q in built(documents)]
    assert asked == [
        ("heldout/multi_hop", "full_context", "multi_hop-1"),
        ("heldout/multi_hop", "full_context", "multi_hop-3"),
        ("heldout/multi_hop", "full_context", "multi_hop-5"),
        ("heldout/numerical", "full_context", "numerical-2"),
        ("needle/200", "full_context", "needle-200-0"),
        ("needle/200", "full_context", "needle-200-1"),
        ("needle/400", "full_context", "needle-400-0"),
        ("needle/400", "full_context", "needle-400-1"),
        ("dialogue_recall/300", "full_context", "dialogue_recall-300-0"),
        ("heldout/multi_hop", "agent", "multi_hop-1"),
        ("heldout/numerical", "agent", "numerical-2"),
        ("heldout/multiple_choice", "agent", "multiple_choice-4"),
        ("needle/400", "agent", "needle-400-0"),
    ]
    assert len(built(documents, stage_config(questions_per_task={"multi_hop": 100}, agent_questions_per_task=0))) == 9


def test_contexts_have_the_lengths_asked_for_unless_the_prompt_would_be_cut(documents):
    lengths = {q.benchmark: len(q.context()) for q in built(documents) if q.mode == "full_context"}
    assert lengths["needle/200"] == 200
    assert lengths["needle/400"] == 400
    assert lengths["dialogue_recall/300"] == 300
    tight = built(documents, stage_config(max_input_tokens=500))
    tight = {q.benchmark: len(q.context()) for q in tight if q.mode == "full_context"}
    assert tight["needle/200"] == 200
    assert tight["needle/400"] == 500 - 192


def test_needles_are_the_same_whatever_their_number_and_spread_over_the_depths(documents):
    few = [q for q in built(documents, stage_config(needle_questions=1)) if q.benchmark == "needle/200"]
    many = [q for q in built(documents, stage_config(needle_questions=5)) if q.benchmark == "needle/200"]
    assert many[0].sample == few[0].sample
    depths = {q.sample.proof["depth"] for q in many}
    assert len(depths) == 5


def test_predictions_and_scores_by_hand(documents, tmp_path):
    questions = built(documents)
    predictions, engines, progress = ask(questions, tmp_path / "state")
    by_id = {(p.sample_id, p.mode): p for p in predictions}
    first = by_id["multi_hop-1", "full_context"]
    assert first.gold == "Oslo"
    assert first.prediction == "Oslo 42"
    assert first.score == 1.0
    assert first.evidence_position == 0.25
    assert first.response_tokens == 8
    assert by_id["multi_hop-5", "full_context"].score == 0.0
    assert by_id["numerical-2", "full_context"].score == 1.0
    assert by_id["needle-400-1", "full_context"].score == 1.0
    assert by_id["dialogue_recall-300-0", "full_context"].score == 0.0
    agent = by_id["multi_hop-1", "agent"]
    assert agent.prediction == "Oslo 42"
    assert agent.prompt_tokens > first.prompt_tokens
    assert agent.response_tokens == len("<memory>Oslo</memory><plan>none</plan>") + 1 + 8
    assert by_id["multiple_choice-4", "agent"].score == 0.0
    assert "A. Lima\nB. Oslo" in by_id["multiple_choice-4", "agent"].question
    assert len(engines) == 1
    assert engines[0].closed
    assert progress == [(0, 9), (1, 13)]

    rows = {(row["benchmark"], row["mode"]): row for row in score_rows(questions, predictions, SEED)}
    row = rows["heldout/multi_hop", "full_context"]
    assert row == {
        "benchmark": "heldout/multi_hop", "mode": "full_context", "metric": "cover_exact_match", "n": 3,
        "mean": pytest.approx(2 / 3), "ci_low": pytest.approx(0.20765, abs=1e-5),
        "ci_high": pytest.approx(0.93851, abs=1e-5), "interval": "wilson",
    }  # fmt: skip
    assert rows["needle/200", "full_context"]["metric"] == "share_contained"
    assert rows["needle/200", "full_context"]["n"] == 2
    assert rows["needle/400", "agent"]["n"] == 1


def test_a_benchmark_of_several_kinds_of_answers_says_so(documents, tmp_path):
    samples = [sample(1), sample(2, kind=AnswerKind.SET, answer=["Oslo", "Lima"])]
    questions = heldout_questions(samples, documents, {"multi_hop": 2}, "full_context")
    predictions, _, _ = ask(questions, tmp_path / "state", script=lambda *a: "Oslo")
    (row,) = score_rows(questions, predictions, SEED)
    assert row["metric"] == "rule_score"
    assert row["mean"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_prompt_is_the_one_of_training(documents, tmp_path):
    prompts = []
    ask(built(documents)[:1], tmp_path / "state", script=lambda prompt, *rest: prompts.append(prompt) or "x")
    assert prompts == [
        f'<user>\n<documents>\n<document title="capitals">\n{CAPITALS[:100]}\n</document>\n</documents>\n\n'
        "Question 1: capital of Norway?\nAnswer with the name or phrase only.\n<assistant>\n"
    ]


def test_chunks_hold_one_mode_and_keep_the_order(documents, monkeypatch):
    monkeypatch.setattr(asking, "CHUNK_QUESTIONS", 4)
    questions = built(documents)
    chunks = chunks_of(questions)
    assert [q for chunk in chunks for q in chunk] == questions
    assert [len(chunk) for chunk in chunks] == [4, 4, 1, 4]
    assert [len({q.mode for q in chunk}) for chunk in chunks] == [1, 1, 1, 1]


def test_after_a_crash_only_unfinished_chunks_are_asked_and_the_result_is_the_same(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "CHUNK_QUESTIONS", 4)
    whole, engines, _ = ask(built(documents), tmp_path / "whole")
    first_chunks = [request.prompt_ids for request in engines[0].requests[:8]]
    with pytest.raises(KeyboardInterrupt):
        ask(built(documents), tmp_path / "broken", limit=9 - 1)
    resumed, engines, progress = ask(built(documents), tmp_path / "broken")
    assert resumed == whole
    assert not any(request.prompt_ids in first_chunks for request in engines[0].requests)
    assert [number for number, _ in progress] == [0, 1, 2, 3]
    again, engines, _ = ask(built(documents), tmp_path / "broken")
    assert again == whole
    assert engines == []  # nothing left: no model is loaded


@pytest.mark.parametrize("damage", ["torn", "garbage", "short"])
def test_a_damaged_state_file_costs_what_is_damaged(documents, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(asking, "CHUNK_QUESTIONS", 4)
    whole, _, _ = ask(built(documents), tmp_path)
    path = tmp_path / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = {
        "torn": lines[2][:-9],
        "garbage": b'[{"x": 1}]\n',
        "short": json.dumps(json.loads(lines[2])[:2]).encode() + b"\n",
    }
    path.write_bytes(b"".join(lines[:2]) + last[damage])
    resumed, engines, _ = ask(built(documents), tmp_path)
    assert resumed == whole
    assert len(engines[0].requests) >= 5
    assert path.read_bytes() == b"".join(lines)


def test_a_state_file_of_other_questions_is_not_used(documents, tmp_path):
    ask(built(documents), tmp_path)
    other = [sample(1, answer="Lima"), *SAMPLES[1:]]
    predictions, engines, _ = ask(built(documents, samples=other), tmp_path)
    assert predictions[0].score == 0.0
    assert len(engines) == 1


def test_a_long_context_loses_its_middle_and_keeps_the_question():
    context = "START " + "middle " * 300 + "END"
    tokenizer = ByteTokenizer()
    prompt = full_context_prompt(sample(1), context, tokenizer, 500)
    text = tokenizer.decode(prompt)
    assert 495 <= len(prompt) <= 500
    assert "<documents>\nSTART middle" in text
    assert CUT_MARK in text
    assert "middle END\n</documents>" in text
    assert "Question 1: capital of Norway?\nAnswer with the name or phrase only." in text


def test_a_context_that_fits_exactly_is_whole():
    tokenizer = ByteTokenizer()
    length = len(full_context_prompt(sample(1), "some context", tokenizer, 10_000))
    assert "some context" in tokenizer.decode(full_context_prompt(sample(1), "some context", tokenizer, length))
    assert CUT_MARK in tokenizer.decode(full_context_prompt(sample(1), "some context", tokenizer, length - 1))


def test_a_question_over_the_limit_is_refused_with_the_numbers():
    with pytest.raises(
        InputError, match=r"question multi_hop-1 has \d+ tokens without any context, .* is 60. Raise it"
    ):
        full_context_prompt(sample(1), "context", ByteTokenizer(), 60)


@pytest.mark.parametrize(
    ("context", "position"),
    [
        ([("a", 0, 100), ("b", 0, 100)], (100 + 40) / 200),
        ([("b", 40, 60), ("a", 0, 60)], 0.0),
        ([("b", 0, 40), ("a", 0, 60)], None),
        ([], None),
    ],
)
def test_evidence_position_is_a_share_of_the_context(context, position):
    asked = sample(
        1,
        evidence=[
            Evidence(document_id="b", start=50, end=52, quote="xx"),
            Evidence(document_id="b", start=40, end=42, quote="xx"),
        ],
        context=[Span(document_id=name, start=start, end=end) for name, start, end in context],
    )
    assert evidence_position(asked) == position


def test_a_corpus_without_conversations_has_no_recall_questions_and_says_so(tmp_path, caplog):
    path = tmp_path / "documents.jsonl"
    write_jsonl(path, [document(Category.CODE, "x", "print(1)")])
    with caplog.at_level(logging.WARNING):
        questions = build_questions(stage_config(), [], DocumentStore([path]), ByteTokenizer())
    assert questions == []
    assert "dialogue_recall/300: only 0 of 1 questions" in caplog.text
    assert "needle/200: " in caplog.text


# --- the stage with a real, tiny, random model ------------------------------------------------------------------------


def write_tiny_model(folder):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}assistant:"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048, eos_token_id=vocabulary["<end>"],
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture
def stage_inputs(tmp_path, documents):
    model_data = tmp_path / "outputs" / "model" / "data"
    write_tiny_model(model_data / "model")
    write_model_pointer(model_data, model_data / "model")
    heldout = tmp_path / "heldout.jsonl"
    write_jsonl(heldout, SAMPLES)
    return {"model": model_data, "heldout": heldout, "documents": tmp_path / "documents.jsonl"}


def run_stage(tmp_path, inputs, name="sft", state="state", emit=lambda step, values: None, **changes):
    out_dir = tmp_path / "runs" / name / "data"
    out_dir.mkdir(parents=True)
    (tmp_path / state).mkdir(exist_ok=True)
    counts = run(stage_config(max_output_tokens=4, **changes), inputs, out_dir, tmp_path / state, emit)
    return out_dir, counts


def test_the_stage_writes_predictions_and_scores_and_repeats_its_bytes(tmp_path, stage_inputs):
    emitted = []
    # Four output tokens are fewer than a recall answer has, so there is no such question.
    out_dir, counts = run_stage(tmp_path, stage_inputs, emit=lambda step, values: emitted.append((step, values)))
    assert sorted(path.name for path in out_dir.iterdir()) == ["predictions.jsonl", "scores.json"]
    rows = [json.loads(line) for line in (out_dir / "predictions.jsonl").read_text().splitlines()]
    assert [sorted(row) for row in rows] == [
        sorted(
            [
                "benchmark",
                "mode",
                "sample_id",
                "task_type",
                "question",
                "gold",
                "prediction",
                "score",
                "prompt_tokens",
                "response_tokens",
                "evidence_position",
            ]
        )
    ] * 12
    scores = read_json(out_dir / "scores.json")
    assert scores["model"] == "sft"
    assert [(row["benchmark"], row["mode"], row["n"]) for row in scores["scores"]] == [
        ("heldout/multi_hop", "full_context", 3),
        ("heldout/numerical", "full_context", 1),
        ("needle/200", "full_context", 2),
        ("needle/400", "full_context", 2),
        ("heldout/multi_hop", "agent", 1),
        ("heldout/numerical", "agent", 1),
        ("heldout/multiple_choice", "agent", 1),
        ("needle/400", "agent", 1),
    ]
    assert counts["questions"] == 12
    assert counts["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows)
    assert str(tmp_path) not in (out_dir / "scores.json").read_text()
    assert emitted[0] == (
        0,
        {"progress/prompts": 8.0, "progress/tokens": pytest.approx(emitted[0][1]["progress/tokens"])},
    )
    assert "score/needle/400/agent" in emitted[-1][1]
    again, _ = run_stage(tmp_path, stage_inputs, name="again/sft", state="other_state")
    assert md5_of_folder(out_dir) == md5_of_folder(again)


def test_a_broken_heldout_row_is_named(tmp_path, stage_inputs):
    stage_inputs["heldout"].write_text(SAMPLES[0].model_dump_json() + '\n{"id": "x"}\n')
    with pytest.raises(InputError, match=r"heldout.jsonl: record 2 is no Sample"):
        run_stage(tmp_path, stage_inputs)


def test_a_heldout_row_of_another_corpus_is_refused(tmp_path, stage_inputs):
    stray = sample(1, context=[Span(document_id="general/none", start=0, end=5)])
    write_jsonl(stage_inputs["heldout"], [stray])
    with pytest.raises(InputError, match="no document 'general/none'"):
        run_stage(tmp_path, stage_inputs)


def test_lengths_that_the_window_cannot_hold_are_refused(tmp_path, stage_inputs):
    agent = MemoryAgentConfig(chunk_tokens=4000, memory_tokens=40, turn_tokens=60, answer_tokens=30)
    with pytest.raises(InputError, match="window has 2048"):
        run_stage(tmp_path, stage_inputs, agent=agent)


def test_no_heldout_questions_at_all_still_gives_the_other_benchmarks(tmp_path, stage_inputs):
    stage_inputs["heldout"].write_text("")
    out_dir, counts = run_stage(tmp_path, stage_inputs)
    assert counts["questions"] == 5
    assert {row["benchmark"] for row in read_json(out_dir / "scores.json")["scores"]} == {"needle/200", "needle/400"}
