import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from flows.catalog import CATALOG
from stages.common.errors import ConfigError, LongfuseError, NotEnoughDataError
from stages.common.records import AnswerKind, Sample
from stages.common.storage import open_model_pointer, read_records, write_jsonl
from stages.sft.config import SftStage
from stages.sft.stage import run as run_sft
from tests.stages.rl.tiny_world import TASKS, make_samples, write_model_folder
from tests.train_settings import SFT, TRAIN

PROFILES = Path(__file__).parents[3] / "flows" / "profiles"
LENGTHS = {"max_input_tokens": 400, "max_output_tokens": 8}
AGENT = {
    "chunk_tokens": 60,
    "memory_tokens": 16,
    "turn_tokens": 12,
    "answer_tokens": 8,
    "prompt_order": "memory_first",
    "split_question": "rules",
}


def merged(base: dict, changes: dict) -> dict:
    result = dict(base)
    for key, value in changes.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return result


def config_of(name: str, **changes):
    """The stage's configuration in the plumbing profile, with changes."""
    base = yaml.safe_load((PROFILES / "base.yaml").read_text())
    params = merged(merged(base, yaml.safe_load((PROFILES / "plumbing.yaml").read_text())), changes)
    spec = CATALOG[name]

    def value(key: str):
        found = params
        for part in key.split("."):
            found = found[part]
        return found

    return spec.config_type().model_validate({field: value(key) for field, key in spec.params.items()})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """A model that was taught to answer "x" or "q x", so that rewards of its samples differ."""
    root = tmp_path_factory.mktemp("rl_stage_world")
    write_model_folder(root / "base")
    documents, samples = make_samples(per_task=3)
    answers = ["x", "q x", "x"]
    taught = [
        s.model_copy(update={"answer": answers[i % 3], "answer_kind": AnswerKind.TEXT}) for i, s in enumerate(samples)
    ]
    asked = [s.model_copy(update={"answer": "q", "answer_kind": AnswerKind.TEXT}) for s in samples]
    write_jsonl(root / "documents.jsonl", documents)
    write_jsonl(root / "sft.jsonl", taught)
    write_jsonl(root / "train.jsonl", asked)
    settings = SFT | {"steps": 40, "batch_size": 5, "learning_rate": 1e-2, "checkpoint_every_steps": 100}
    config = SftStage.model_validate({"sft": settings, "train": TRAIN, "seed": 1})
    (root / "sft" / "data").mkdir(parents=True)
    inputs = {"base_model": root / "base", "samples": root / "sft.jsonl", "documents": root / "documents.jsonl"}
    run_sft(config, inputs, root / "sft" / "data", root / "state", lambda step, metrics: None)
    return {
        "parent": root / "sft" / "data",
        "train": root / "train.jsonl",
        "documents": root / "documents.jsonl",
        "base_model": root / "base" / "model",
    }


def run_stage(name: str, world, root: Path, config, emit=lambda step, metrics: None) -> dict[str, int]:
    for folder in ("data", "state"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return CATALOG[name].run_function()(config, world, root / "data", root / "state", emit)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stage_trains_on_prompts_of_middle_difficulty_and_writes_its_files(world, tmp_path):
    shared = {"overlong": "keep", "aepo": {"entropy_low": 0.01, "entropy_high": 9.0}}
    stage = LENGTHS | {"filter_prompts": 15, "filter_rollouts": 4, "steps": 3}
    emitted = []
    counts = run_stage(
        "rl@stage2",
        world,
        tmp_path,
        config_of("rl@stage2", rl={"shared": shared, "stage2": stage}),
        lambda step, metrics: emitted.append(metrics),
    )
    data = tmp_path / "data"
    assert sorted(path.name for path in data.iterdir()) == [
        "metrics.jsonl", "model", "model.json", "rollouts.jsonl", "selected.jsonl",
    ]  # fmt: skip
    selected = lines(data / "selected.jsonl")
    assert counts["prompts"] == 15
    assert counts["selected"] == len(selected) >= 5
    assert {entry["task_type"] for entry in selected} == {task.value for task in TASKS}
    for entry in selected:
        assert (0 < entry["mean_reward"] < 1) == (entry["reason"] == "in_range")
    assert any(entry["reason"] == "in_range" for entry in selected)
    assert len(lines(data / "metrics.jsonl")) == len(emitted) == 3
    assert any(step["grad_norm"] > 0 for step in emitted)
    assert {line["step"] for line in lines(data / "rollouts.jsonl")} == {0, 1, 2}
    model = AutoModelForCausalLM.from_pretrained(open_model_pointer(data))
    parent = AutoModelForCausalLM.from_pretrained(open_model_pointer(world["parent"]))
    changed = [not a.equal(b) for a, b in zip(model.parameters(), parent.parameters(), strict=True)]
    assert all(changed)
    assert not list((tmp_path / "state").glob("checkpoint-*"))


def test_without_a_filter_every_prompt_that_fits_is_used(world, tmp_path):
    counts = run_stage("rl@stage1", world, tmp_path, config_of("rl@stage1", rl={"stage1": LENGTHS | {"steps": 1}}))
    assert (counts["prompts"], counts["too_long"], counts["selected"]) == (15, 0, 15)
    assert {entry["reason"] for entry in lines(tmp_path / "data" / "selected.jsonl")} == {"unfiltered"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("name", ["rl@stage2", "memory_rl"])
def test_a_killed_stage_continues_to_the_same_bytes(world, tmp_path, name):
    shared = {
        "group_size": 2,
        "overlong": "keep",
        "checkpoint_every_steps": 1,
        "aepo": {"entropy_low": 0.01, "entropy_high": 9.0},
    }
    stage = LENGTHS | {"filter_prompts": 10, "filter_rollouts": 2, "steps": 3}
    memory = {"agent": AGENT, "max_input_tokens": 400, "steps": 2, "filter_prompts": 5, "filter_rollouts": 2}
    config = config_of(name, rl={"shared": shared, "stage2": stage}, memory_rl=memory)
    unbroken = run_stage(name, world, tmp_path / "unbroken", config)

    def emit(step, metrics):
        if step == 1:
            raise Killed

    with pytest.raises(Killed):
        run_stage(name, world, tmp_path / "killed", config, emit)
    assert run_stage(name, world, tmp_path / "killed", config) == unbroken
    for path in sorted((tmp_path / "unbroken" / "data").rglob("*")):
        if path.is_file():
            twin = tmp_path / "killed" / path.relative_to(tmp_path / "unbroken")
            assert twin.read_bytes() == path.read_bytes(), path.name


def test_memory_rl_trains_whole_trajectories(world, tmp_path):
    memory = {"agent": AGENT, "max_input_tokens": 400, "steps": 2, "filter_prompts": 0}
    emitted = []
    run_stage(
        "memory_rl",
        world,
        tmp_path,
        config_of("memory_rl", rl={"shared": {"overlong": "keep"}}, memory_rl=memory),
        lambda step, metrics: emitted.append(metrics),
    )
    assert emitted[0]["memory/turns"] > 2  # a document of about 70 tokens in chunks of 60, and the answer
    assert emitted[0]["memory/parse_failures"] > 0  # a byte model does not write <memory>
    # The engine's prompts and the trainer's rows are the same tokens, turn by turn
    assert emitted[0]["mismatch/k3_kl"] < 1e-8
    assert open_model_pointer(tmp_path / "data").is_dir()


class Recording:
    """An `emit` that takes trajectories too, as the spool of a stage does."""

    def __init__(self):
        self.trajectories = []

    def __call__(self, step, metrics):
        pass

    def trajectory(self, record):
        self.trajectories.append(json.loads(json.dumps(record)))


def test_memory_rl_records_a_group_per_update_and_its_outputs_do_not_change_by_it(world, tmp_path):
    memory = {"agent": AGENT, "max_input_tokens": 400, "steps": 2, "filter_prompts": 5, "filter_rollouts": 2}
    config = config_of("memory_rl", rl={"shared": {"overlong": "keep", "group_size": 2}}, memory_rl=memory)
    emit = Recording()
    run_stage("memory_rl", world, tmp_path / "recorded", config, emit)
    run_stage("memory_rl", world, tmp_path / "plain", config)
    for path in sorted((tmp_path / "plain" / "data").rglob("*")):
        if path.is_file():
            assert (tmp_path / "recorded" / path.relative_to(tmp_path / "plain")).read_bytes() == path.read_bytes()
    told = [record["attributes"] for record in emit.trajectories]
    assert [(facts["update"], facts["rollout"]) for facts in told] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert len({record["key"] for record in emit.trajectories}) == 4
    kept = {}
    for entry in lines(tmp_path / "recorded" / "data" / "rollouts.jsonl"):
        kept.setdefault((entry["step"] + 1, entry["sample_id"]), []).append(entry["reward"])
    for facts, record in zip(told, emit.trajectories, strict=True):
        assert facts["reward"] == kept[facts["update"], facts["sample_id"]][facts["rollout"]]
        assert len(record["turns"]) == facts["turns"] > 0


def test_documents_too_long_for_memory_rl_are_left_out(world, tmp_path):
    shortest = min(sample.context_tokens for sample in read_records(world["train"], Sample))
    memory = {"agent": AGENT, "max_input_tokens": shortest - 1}
    with pytest.raises(NotEnoughDataError, match="max_input_tokens"):
        run_stage("memory_rl", world, tmp_path, config_of("memory_rl", memory_rl=memory))


def test_prompts_too_long_for_the_stage_are_an_error_if_none_is_left(world, tmp_path):
    config = config_of("rl@stage1", rl={"stage1": LENGTHS | {"max_input_tokens": 40}})
    with pytest.raises(NotEnoughDataError, match="40 tokens"):
        run_stage("rl@stage1", world, tmp_path, config)


def test_lengths_that_no_row_can_hold_name_the_knob(world, tmp_path):
    config = config_of("rl@stage1", rl={"shared": {"max_row_tokens": 128}, "stage1": LENGTHS})
    with pytest.raises(ConfigError, match="max_row_tokens"):
        run_stage("rl@stage1", world, tmp_path, config)


def test_a_penalty_without_a_slope_names_the_knob(world, tmp_path):
    config = config_of("rl@stage1", rl={"shared": {"overlong": "penalise"}, "stage1": LENGTHS})
    with pytest.raises(ConfigError, match="overlong_buffer_tokens"):
        run_stage("rl@stage1", world, tmp_path, config)


def test_weights_equal_to_the_parent_fail_the_stage(world, tmp_path):
    config = config_of("rl@stage1", rl={"stage1": LENGTHS | {"learning_rate": 1e-30, "steps": 1}})
    with pytest.raises(LongfuseError, match="nothing was learned"):
        run_stage("rl@stage1", world, tmp_path, config)
