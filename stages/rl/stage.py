"""rl@stageN: one full-context RL stage, from its parent model to `data/model/`.

`run_stage` is shared with memory_rl (memory_stage.py): parent model -> policy and engine that share weights -> prompts
that fit -> retrospective difficulty filter -> loop -> saved model. A crashed stage continues from `state_dir`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from stages.engines.transformers_engine import TransformersEngine
from stages.rl.checkpoint import Checkpoints, fingerprint
from stages.rl.config import RLSharedConfig, RLStage
from stages.rl.filter import Selected, draw_balanced, measure, select
from stages.rl.policy import OptimizerSettings
from stages.rl.rollout import FullContextRolloutSource, RolloutSource, fitting_samples
from stages.rl.torch_policy import TorchPolicy
from stages.rl.train import TrainPlan, train

logger = logging.getLogger(__name__)

# (engine, documents, rollouts per prompt, seed) -> source
MakeSource = Callable[[RolloutEngine, DocumentStore, int, int], RolloutSource]
# (samples, documents, engine) -> those that fit, number left out
ChooseSamples = Callable[[Sequence[Sample], DocumentStore, RolloutEngine], tuple[list[Sample], int]]


@dataclass(frozen=True)
class StageSettings:
    """What a stage hands to `run_stage` besides its config's shared part. filter_prompts 0: no filter."""

    plan: TrainPlan
    learning_rate: float
    filter_prompts: int
    filter_rollouts: int
    max_input_tokens: int


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

    def make_source(engine: RolloutEngine, documents: DocumentStore, group_size: int, seed: int) -> RolloutSource:
        return FullContextRolloutSource(
            engine,
            documents,
            max_output_tokens=stage.max_output_tokens,
            group_size=group_size,
            temperature=shared.temperature,
            top_p=shared.top_p,
            seed=seed,
        )

    def choose(samples: Sequence[Sample], documents: DocumentStore, engine: RolloutEngine) -> tuple[list[Sample], int]:
        return fitting_samples(samples, documents, engine.tokenizer, stage.max_input_tokens)

    settings = StageSettings(
        plan=TrainPlan(stage.steps, stage.max_output_tokens, shared.std_scope, "token"),
        learning_rate=stage.learning_rate,
        filter_prompts=stage.filter_prompts,
        filter_rollouts=stage.filter_rollouts,
        max_input_tokens=stage.max_input_tokens,
    )
    identity = config.model_dump_json()
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
    policy = TorchPolicy(
        parent,
        compute_dtype=train_config.compute_dtype,
        temperature=shared.temperature,
        learning_rate=settings.learning_rate,
        optimizer=OptimizerSettings(
            shared.adam_beta1, shared.adam_beta2, shared.adam_epsilon, shared.weight_decay, shared.max_grad_norm
        ),
    )
    parent_digest = policy.digest()
    # Stages share one seed and their prompts: salted by the parent, each draws them in another order.
    seed = derive_seed(seed, parent_digest)
    engine = TransformersEngine(
        parent, compute_dtype=train_config.compute_dtype, model=policy.model, tokenizer=policy.tokenizer
    )
    documents = DocumentStore([inputs["documents"]])
    available = read_records(inputs["train"], Sample)
    fitting, too_long = choose(available, documents, engine)
    if not fitting:
        raise NotEnoughDataError(
            f"none of the {len(available)} training prompts has at most {settings.max_input_tokens} tokens. "
            "Raise the stage's max_input_tokens, or shorten assemble.max_context_tokens."
        )
    logger.info("%d prompts fit, %d are longer than %d tokens", len(fitting), too_long, settings.max_input_tokens)
    identity = fingerprint(identity, parent_digest, *(sample.model_dump_json() for sample in fitting))

    selected = _selected(settings, shared, seed, make_source, engine, documents, fitting, state_dir / identity)
    chosen_ids = {entry.id for entry in selected}
    progress = train(
        policy=policy,
        engine=engine,
        source=make_source(engine, documents, shared.group_size, seed),
        samples=[sample for sample in fitting if sample.id in chosen_ids],
        shared=shared,
        plan=settings.plan,
        seed=seed,
        checkpoints=(checkpoints := Checkpoints(state_dir, identity)),
        work_dir=state_dir / identity,
        emit=emit,
    )
    engine.close()
    if policy.digest() == parent_digest:
        raise LongfuseError(
            f"after {progress.step} updates ({progress.skipped} skipped) the weights are bit for bit those of the parent "
            f"model {inputs['parent']}: nothing was learned. Either every group's rewards were equal (see "
            "rollouts in the stage's state folder) or learning_rate is too small for float32."
        )
    policy.save(out_dir / "model")
    write_model_pointer(out_dir, out_dir / "model")
    _collect(state_dir / identity, selected, out_dir)
    checkpoints.clear()
    return {
        "prompts": len(fitting),
        "too_long": too_long,
        "selected": len(selected),
        "fallback": sum(entry.reason == "fallback" for entry in selected),
        "updates": progress.step,
        "skipped_updates": progress.skipped,
        "updates_without_signal": progress.without_signal,
        "rollout_tokens": progress.tokens,
    }


def _selected(
    settings: StageSettings,
    shared: RLSharedConfig,
    seed: int,
    make_source: MakeSource,
    engine: RolloutEngine,
    documents: DocumentStore,
    samples: Sequence[Sample],
    work_dir: Path,
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
        drawn = draw_balanced(samples, settings.filter_prompts, filter_seed)
        source = make_source(engine, documents, settings.filter_rollouts, filter_seed)
        means = measure(source, drawn, shared.batch_size)
        share = -(-shared.batch_size // len({sample.task_type for sample in samples}))
        selected = select(samples, means, share)
    write_jsonl(path, selected)
    return selected


def _collect(work_dir: Path, selected: Sequence[Selected], out_dir: Path) -> None:
    """Move the run's small files into the stage's data folder."""
    write_jsonl(out_dir / "selected.jsonl", selected)
    shutil.copyfile(work_dir / "metrics.jsonl", out_dir / "metrics.jsonl")
    with (out_dir / "rollouts.jsonl").open("wb") as target:
        for path in sorted((work_dir / "excerpts").glob("step-*.jsonl")):
            target.write(path.read_bytes())
