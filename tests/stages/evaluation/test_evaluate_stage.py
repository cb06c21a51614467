"""The stage with a real, tiny, random model: files, repeatability, bad inputs."""

import json

import pytest
import torch
from evaluation_examples import SAMPLES, sample, stage_config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stages.common.errors import InputError
from stages.common.records import Span
from stages.common.storage import md5_of_folder, read_json, write_jsonl, write_model_pointer
from stages.evaluation.evaluate import run
from stages.memory.config import MemoryAgentConfig


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
