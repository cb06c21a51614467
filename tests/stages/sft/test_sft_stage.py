import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.common.errors import LongfuseError, NotEnoughDataError
from stages.common.records import AnswerKind
from stages.common.storage import DocumentStore, open_model_pointer
from stages.common.tokens import ChatTokenizer
from stages.rl.checkpoint import Checkpoints
from stages.sft.config import SftConfig, SftStage
from stages.sft.dataset import Example, answer_text, batch_indices, build_examples, epoch_order
from stages.sft.stage import run
from stages.sft.train import answer_rows, learning_rate_at, train, update
from tests.stages.rl.tiny_world import make_policy, make_samples, write_inputs, write_model_folder
from tests.train_settings import SFT, TRAIN

SETTINGS = SFT | {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every_steps": 1}


def stage_config(compute_dtype: str = "float32", **changes) -> SftStage:
    train_config = TRAIN | {"compute_dtype": compute_dtype}
    return SftStage.model_validate({"sft": SETTINGS | changes, "train": train_config, "seed": 3})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sft_world")
    write_model_folder(root / "base")
    paths = write_inputs(root)
    return {"base_model": root / "base", "samples": paths["train"], "documents": paths["documents"]}


def run_stage(world, root: Path, config: SftStage, emit=lambda step, metrics: None) -> dict[str, int]:
    for name in ("data", "state"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return run(config, world, root / "data", root / "state", emit)


def read_metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_example_is_the_prompt_and_the_answer_with_the_end_token(world):
    samples = make_samples()[1]
    tokenizer = ChatTokenizer(world["base_model"] / "model")
    examples, left_out = build_examples(samples, DocumentStore([world["documents"]]), tokenizer, 512)
    assert (len(examples), left_out) == (15, 0)
    prompt = tokenizer.decode(examples[0].prompt_ids)
    assert "Record multi_hop-000: the harbour" in prompt
    assert prompt.endswith("assistant\n")
    assert tokenizer.decode(examples[0].answer_ids) == "a to z and 0 to 9, some letters"
    assert examples[0].answer_ids[-1] == tokenizer.eos_id


def test_examples_over_the_limit_are_left_out_and_counted(world):
    samples = make_samples()[1]
    tokenizer = ChatTokenizer(world["base_model"] / "model")
    documents = DocumentStore([world["documents"]])
    examples, _ = build_examples(samples, documents, tokenizer, 512)
    lengths = sorted(len(e.prompt_ids) + len(e.answer_ids) for e in examples)
    fewer, left_out = build_examples(samples, documents, tokenizer, lengths[6])
    assert len(fewer) == sum(length <= lengths[6] for length in lengths)
    assert left_out == 15 - len(fewer) > 0


def test_a_list_answer_is_written_with_semicolons():
    sample = make_samples(1)[1][0].model_copy(update={"answer": ["Oslo", "Bergen"], "answer_kind": AnswerKind.SET})
    assert answer_text(sample) == "Oslo; Bergen"


def test_an_epoch_holds_every_example_once_in_the_data_s_proportions():
    tasks = ["a"] * 30 + ["b"] * 10
    order = epoch_order(tasks, seed=1, epoch=0)
    assert sorted(order) == list(range(40))
    for start in range(0, 40, 8):  # 8 in a stretch: about 6 of a and 2 of b
        assert 1 <= sum(tasks[i] == "b" for i in order[start : start + 8]) <= 3
    assert order == epoch_order(tasks, seed=1, epoch=0)
    assert order != epoch_order(tasks, seed=1, epoch=1)


def test_batches_run_through_the_epochs_without_gaps():
    tasks = ["a"] * 5 + ["b"] * 2
    stream = [index for step in range(7) for index in batch_indices(tasks, 3, step, seed=2)]
    for epoch in range(3):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))


def test_the_learning_rate_warms_up_and_decays_linearly_to_zero():
    config = SftConfig.model_validate(SETTINGS | {"steps": 6, "warmup_steps": 2, "learning_rate": 0.8})
    assert [learning_rate_at(step, config) for step in range(7)] == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2, 0])


def test_the_gradient_is_that_of_the_mean_negative_log_likelihood_of_answer_tokens(world):
    batch = [
        Example("a", "t", (1, 2, 3, 4), (5, 6, 7)),
        Example("b", "t", (9, 8), (7,)),
        Example("c", "t", (3, 3, 3), (1, 2)),
    ]
    model = AutoModelForCausalLM.from_pretrained(world["base_model"] / "model", dtype=torch.float32).eval()
    losses = []
    for example in batch:
        ids = torch.tensor([example.prompt_ids + example.answer_ids])
        logits = model(input_ids=ids).logits[0, len(example.prompt_ids) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(example.answer_ids), reduction="none"))
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    for trees_per_row in (1, None):
        policy = make_policy(world["base_model"] / "model", temperature=1.0)
        stats = update(policy, batch, answer_rows(batch, 512, trees_per_row))
        assert stats.grad_norm == pytest.approx(float(norm), rel=1e-4)
        clipped = {name: p.grad / norm for name, p in model.named_parameters()}
        for name, gradient in policy.gradients.items():
            torch.testing.assert_close(gradient, clipped[name], rtol=1e-3, atol=1e-6)
        scored = torch.cat([score.logprobs_N for score in stats.scores])
        assert -float(scored.mean()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_the_stage_lowers_the_loss_and_writes_its_files(world, tmp_path):
    counts = run_stage(world, tmp_path, stage_config(steps=12, learning_rate=5e-3))
    assert counts == {
        "samples": 15, "too_long": 0, "agent_turns": 0, "teacher_traces": 0, "proof_traces": 0, "updates": 12, "skipped_updates": 0,
        "answer_tokens": 12 * 4 * 32,
    }  # fmt: skip
    taught = read_metrics(tmp_path / "data" / "examples.jsonl")
    assert len(taught) == 15
    assert taught[0]["response"] == "a to z and 0 to 9, some letters"
    metrics = read_metrics(tmp_path / "data" / "metrics.jsonl")
    assert metrics[-1]["loss/sft"] < metrics[0]["loss/sft"] - 1
    assert not any(key.startswith(("time/", "perf/")) for line in metrics for key in line)
    model_dir = open_model_pointer(tmp_path / "data")
    assert model_dir == tmp_path / "data" / "model"
    assert AutoModelForCausalLM.from_pretrained(model_dir).dtype == torch.float32
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "examples.jsonl", "metrics.jsonl", "model", "model.json",
    ]  # fmt: skip


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("compute_dtype", "every", "kill_at"), [("float32", 1, 0), ("float32", 2, 1), ("bfloat16", 2, 2)]
)
def test_a_killed_stage_continues_to_the_same_bytes(world, tmp_path, compute_dtype, every, kill_at):
    config = stage_config(compute_dtype, checkpoint_every_steps=every)
    run_stage(world, tmp_path / "unbroken", config)

    def emit(step, metrics):
        if step == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run_stage(world, tmp_path / "killed", config, emit)
    steps: list[int] = []
    run_stage(world, tmp_path / "killed", config, lambda step, metrics: steps.append(step))
    assert steps[0] == kill_at // every * every
    for name in ("model/model.safetensors", "metrics.jsonl", "model.json"):
        assert (tmp_path / "killed/data" / name).read_bytes() == (tmp_path / "unbroken/data" / name).read_bytes()


def test_switched_off_it_points_at_the_base_model_and_copies_nothing(world, tmp_path):
    assert run_stage(world, tmp_path, stage_config(enabled=False)) == {"updates": 0, "samples": 0}
    assert open_model_pointer(tmp_path / "data").samefile(world["base_model"] / "model")
    assert (tmp_path / "data" / "metrics.jsonl").read_bytes() == b""
    assert not (tmp_path / "data" / "model").exists()


def test_no_sample_short_enough_names_the_knob(world, tmp_path):
    with pytest.raises(NotEnoughDataError, match="max_tokens"):
        run_stage(world, tmp_path, stage_config(max_tokens=32))


def test_weights_that_did_not_move_fail_the_stage(world, tmp_path):
    with pytest.raises(LongfuseError, match="nothing was learned"):
        run_stage(world, tmp_path, stage_config(learning_rate=1e-30))


def test_a_checkpoint_of_other_data_is_not_continued(world, tmp_path):
    examples = [Example("a", "t", (1, 2, 3), (4, 5))] * 4
    config = SftConfig.model_validate(SETTINGS)
    model = world["base_model"] / "model"
    results = []
    for name, fingerprint in (("one", "x"), ("one", "y"), ("two", "y")):  # the second finds the first's checkpoint
        policy = make_policy(model, temperature=1.0)
        train(
            policy=policy,
            examples=examples,
            config=config,
            seed=1,
            checkpoints=Checkpoints(tmp_path / name, fingerprint),
            work_dir=tmp_path / name / fingerprint,
            emit=lambda step, metrics: None,
        )
        results.append(policy.digest())
    assert len(set(results)) == 1
