"""rl@stageN: one full-context RL stage, from its parent model to `data/model/`.

`run_stage` is shared with memory_rl (memory_stage.py): parent model -> policy and engine that share weights -> prompts
that fit -> retrospective difficulty filter -> loop -> saved model. A crashed stage continues from `state_dir`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from stages.common.config import TrainConfig
from stages.common.errors import ConfigError, LongfuseError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Sample
from stages.common.seeds import derive_seed
from stages.common.storage import (
    DocumentStore,
    open_model_pointer,
    read_records,
    write_jsonl,
    write_model_pointer,
)
from stages.engines.base import RolloutEngine
from stages.engines.build import build_engine
from stages.rewards.judge import build_reward
from stages.rl.build_policy import build_policy
from stages.rl.checkpoint import Checkpoints, fingerprint
from stages.rl.config import RLSharedConfig, RLStage
from stages.rl.distributed import DistributedRolloutSource, World, current_world
from stages.rl.filter import Selected, draw_balanced, measure, select
from stages.rl.heldout import HeldOut
from stages.rl.planner import MemoryModel, ModelShape, available_bytes, plan_row_tokens
from stages.rl.policy import OptimizerSettings, Policy
from stages.rl.rollout import FittingSamples, FullContextRolloutSource, RolloutSource, fitting_samples
from stages.rl.train import TrainPlan, train

logger = logging.getLogger(__name__)

# What a rollout source is for: the difficulty filter, the updates, the evaluation while training
Purpose = Literal["filter", "train", "held_out"]
# (engine, documents, rollouts per prompt, seed, purpose) -> source
MakeSource = Callable[[RolloutEngine, DocumentStore, int, int, Purpose], RolloutSource]
# (samples, documents, engine) -> those that fit
ChooseSamples = Callable[[Sequence[Sample], DocumentStore, RolloutEngine], FittingSamples]


@dataclass(frozen=True)
class StageSettings:
    """What a stage hands to `run_stage` besides its config's shared part. filter_prompts 0: no filter.

    max_input_tokens: of a prompt, or of the memory agent's document. longest_prompt_tokens, longest_answer_tokens: of
    one request to the engine.
    """

    plan: TrainPlan
    learning_rate: float
    filter_prompts: int
    filter_rollouts: int
    max_input_tokens: int
    longest_prompt_tokens: int
    longest_answer_tokens: int


def run(config: RLStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Train `inputs["parent"]` for one stage.

    Writes model/, model.json, metrics.jsonl, selected.jsonl, rollouts.jsonl. Raises NotEnoughDataError if no prompt
    fits, ConfigError for lengths that cannot be packed, LongfuseError if nothing was learned.
    """
    stage, shared = config.stage, config.shared
    if stage.max_input_tokens + stage.max_output_tokens > shared.max_row_tokens:
        raise ConfigError(
            f"max_input_tokens {stage.max_input_tokens} + max_output_tokens {stage.max_output_tokens} exceed "
            f"rl.shared.max_row_tokens {shared.max_row_tokens}: raise that one."
        )

    reward = build_reward(config.judge, state_dir)

    def make_source(
        engine: RolloutEngine, documents: DocumentStore, group_size: int, seed: int, _purpose: Purpose
    ) -> RolloutSource:
        return FullContextRolloutSource(
            engine,
            documents,
            max_output_tokens=stage.max_output_tokens,
            group_size=group_size,
            temperature=shared.temperature,
            top_p=shared.top_p,
            seed=seed,
            reward=reward,
            cut_to_tokens=stage.max_input_tokens if shared.overlong_prompts == "truncate_middle" else None,
        )

    def choose(samples: Sequence[Sample], documents: DocumentStore, engine: RolloutEngine) -> FittingSamples:
        return fitting_samples(samples, documents, engine.tokenizer, stage.max_input_tokens, shared.overlong_prompts)

    settings = StageSettings(
        plan=TrainPlan(stage.steps, stage.max_output_tokens, shared.std_scope, "token"),
        learning_rate=stage.learning_rate,
        filter_prompts=stage.filter_prompts,
        filter_rollouts=stage.filter_rollouts,
        max_input_tokens=stage.max_input_tokens,
        longest_prompt_tokens=stage.max_input_tokens,
        longest_answer_tokens=stage.max_output_tokens,
    )
    identity = config.model_dump_json()
    with closing(reward):
        return run_stage(
            settings, shared, config.train, config.seed, identity, make_source, choose, inputs, out_dir, state_dir, emit
        )


def run_stage(
    settings: StageSettings,
    shared: RLSharedConfig,
    train_config: TrainConfig,
    seed: int,
    identity: str,
    make_source: MakeSource,
    choose: ChooseSamples,
    inputs: Mapping[str, Path],
    out_dir: Path,
    state_dir: Path,
    emit: Emit,
) -> dict[str, int]:
    """The part that full-context and memory stages share; `identity` is the stage's whole configuration as text."""
    if shared.overlong == "penalise" and not 0 < shared.overlong_buffer_tokens <= settings.plan.answer_tokens:
        raise ConfigError(
            f"overlong is penalise, so rl.shared.overlong_buffer_tokens ({shared.overlong_buffer_tokens}) must lie "
            f"between 1 and the longest answer ({settings.plan.answer_tokens})."
        )
    parent = open_model_pointer(inputs["parent"])
    policy = build_policy(
        parent,
        train_config,
        temperature=shared.temperature,
        learning_rate=settings.learning_rate,
        optimizer=OptimizerSettings(
            shared.adam_beta1, shared.adam_beta2, shared.adam_epsilon, shared.weight_decay, shared.max_grad_norm
        ),
    )
    world = current_world()
    parent_digest = policy.digest()
    # Stages share one seed and their prompts: salted by the parent, each draws them in another order.
    seed = derive_seed(seed, parent_digest)
    engine = build_engine(parent, train_config, model=policy.model, tokenizer=policy.tokenizer)
    documents = DocumentStore([inputs["documents"]])
    available = read_records(inputs["train"], Sample)
    chosen = choose(available, documents, engine)
    fitting = chosen.samples
    if not fitting:
        raise NotEnoughDataError(
            f"none of the {len(available)} training prompts has at most {settings.max_input_tokens} tokens. "
            "Raise the stage's max_input_tokens, or shorten assemble.max_context_tokens."
        )
    logger.info(
        "%d prompts are used (%d of them cut), %d are left out as longer than %d tokens",
        len(fitting),
        chosen.cut,
        chosen.dropped,
        settings.max_input_tokens,
    )
    identity = fingerprint(identity, parent_digest, *(sample.model_dump_json() for sample in fitting))

    checkpoints = Checkpoints(
        state_dir,
        identity,
        keep=shared.keep_checkpoints,
        rank=world.rank,
        world_size=world.size,
        barrier=partial(world.meet, "checkpoint"),
    )
    make_source = partial(_spread, make_source, world)
    memory = MemoryModel.of_trainer(ModelShape.of_folder(parent), train_config, policy.device, world.size)
    row_tokens = _row_tokens(settings, shared, memory, chosen.longest_prompt_tokens, policy, checkpoints, world)
    shared = shared.model_copy(update={"max_row_tokens": row_tokens})

    selected = _selected(
        settings, shared, seed, make_source, engine, documents, fitting, state_dir / identity, checkpoints, world
    )
    chosen_ids = {entry.id for entry in selected}
    progress = train(
        policy=policy,
        engine=engine,
        source=make_source(engine, documents, shared.group_size, seed, "train"),
        samples=[sample for sample in fitting if sample.id in chosen_ids],
        shared=shared,
        plan=settings.plan,
        seed=seed,
        checkpoints=checkpoints,
        work_dir=state_dir / identity,
        emit=emit,
        held_out=_held_out(shared, seed, make_source, choose, engine, documents, inputs),
        first_process=world.rank == 0,
    )
    engine.close()
    if policy.digest() == parent_digest:
        raise LongfuseError(
            f"after {progress.step} updates ({progress.skipped} skipped) the weights are bit for bit those of the parent "
            f"model {inputs['parent']}: nothing was learned. Either every group's rewards were equal (see "
            "rollouts in the stage's state folder) or learning_rate is too small for float32."
        )
    policy.save(out_dir / "model")
    if world.rank == 0:
        write_model_pointer(out_dir, out_dir / "model")
        _collect(state_dir / identity, selected, out_dir)
        checkpoints.clear()
    return {
        "prompts": len(fitting),
        "too_long": chosen.dropped,
        "cut": chosen.cut,
        "selected": len(selected),
        "fallback": sum(entry.reason == "fallback" for entry in selected),
        "updates": progress.step,
        "skipped_updates": progress.skipped,
        "updates_without_signal": progress.without_signal,
        "rollout_tokens": progress.tokens,
    }


def _spread(
    make_source: MakeSource,
    world: World,
    engine: RolloutEngine,
    documents: DocumentStore,
    group_size: int,
    seed: int,
    purpose: Purpose,
) -> RolloutSource:
    """A rollout source whose work the processes share, if there are several."""
    source = make_source(engine, documents, group_size, seed, purpose)
    return source if world.size == 1 else DistributedRolloutSource(source, world)


def _selected(
    settings: StageSettings,
    shared: RLSharedConfig,
    seed: int,
    make_source: MakeSource,
    engine: RolloutEngine,
    documents: DocumentStore,
    samples: Sequence[Sample],
    work_dir: Path,
    checkpoints: Checkpoints,
    world: World,
) -> list[Selected]:
    """The prompts to train on; measured once, kept in `work_dir` over crashes."""
    path = work_dir / "selected.jsonl"
    if path.is_file():
        return read_records(path, Selected)
    if settings.filter_prompts == 0:
        selected = [
            Selected(id=s.id, task_type=s.task_type.value, mean_reward=None, reason="unfiltered") for s in samples
        ]
    else:
        filter_seed = derive_seed(seed, "filter")
        drawn = draw_balanced(samples, settings.filter_prompts, filter_seed, "the stage's filter_prompts")
        source = make_source(engine, documents, settings.filter_rollouts, filter_seed, "filter")
        means = measure(source, drawn, shared.batch_size, checkpoints.finished(0, "filter"))
        share = -(-shared.batch_size // len({sample.task_type for sample in samples}))
        selected = select(samples, means, share)
    if world.rank == 0:
        write_jsonl(path, selected)
    return selected


def _held_out(
    shared: RLSharedConfig,
    seed: int,
    make_source: MakeSource,
    choose: ChooseSamples,
    engine: RolloutEngine,
    documents: DocumentStore,
    inputs: Mapping[str, Path],
) -> HeldOut | None:
    """The evaluation while training, None if it is off. Reads the held-out prompts only if it is on."""
    if shared.eval_every_steps == 0:
        return None
    fitting = choose(read_records(inputs["heldout"], Sample), documents, engine).samples
    if not fitting:
        raise NotEnoughDataError(
            "no held-out prompt fits this stage's max_input_tokens. Raise it, or set rl.shared.eval_every_steps to 0."
        )
    eval_seed = derive_seed(seed, "held-out")
    samples = draw_balanced(fitting, shared.eval_prompts, eval_seed, "rl.shared.eval_prompts")
    return HeldOut(make_source(engine, documents, 1, eval_seed, "held_out"), samples, shared.eval_every_steps)


def _row_tokens(
    settings: StageSettings,
    shared: RLSharedConfig,
    model: MemoryModel,
    prompt_tokens: int,
    policy: Policy,
    checkpoints: Checkpoints,
    world: World,
) -> int:
    """The rows' token budget that fits into every process's memory. A resumed run keeps that of its first start."""
    plan = checkpoints.finished(0, "plan")
    row_tokens: int | None = plan.noted("max_row_tokens")
    if row_tokens is None:
        row_tokens = plan_row_tokens(
            model,
            shared.max_row_tokens,
            min(prompt_tokens, settings.longest_prompt_tokens),
            shared.group_size,
            settings.longest_answer_tokens,
            policy.trees_per_row,
            available_bytes(policy.device),
        )
        row_tokens = min(world.gather(row_tokens, "memory plan"))
        plan.note("max_row_tokens", row_tokens)
    return row_tokens


def _collect(work_dir: Path, selected: Sequence[Selected], out_dir: Path) -> None:
    """Move the run's small files into the stage's data folder."""
    write_jsonl(out_dir / "selected.jsonl", selected)
    shutil.copyfile(work_dir / "metrics.jsonl", out_dir / "metrics.jsonl")
    with (out_dir / "rollouts.jsonl").open("wb") as target:
        for path in sorted((work_dir / "excerpts").glob("step-*.jsonl")):
            target.write(path.read_bytes())
