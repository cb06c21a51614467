"""sft: the supervised warm-up before RL, or, switched off as in the paper, a pointer to the base model (no copy)."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stages.common.chat_access import open_chat
from stages.common.errors import LongfuseError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Sample
from stages.common.storage import (
    DocumentStore,
    open_model_pointer,
    read_records,
    write_jsonl,
    write_model_pointer,
    write_text,
)
from stages.rl.build_policy import build_policy
from stages.rl.checkpoint import Checkpoints, fingerprint
from stages.rl.distributed import World, current_world
from stages.rl.policy import OptimizerSettings
from stages.sft.agent_traces import agent_examples
from stages.sft.config import SftStage
from stages.sft.dataset import Example, build_examples
from stages.sft.teacher import teacher_traces
from stages.sft.traces import proof_trace
from stages.sft.train import train

logger = logging.getLogger(__name__)

TEACHER_SECONDS = 12 * 3600.0  # that other processes wait for all replies of a teacher


def run(config: SftStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Train `inputs["base_model"]` on `inputs["samples"]`; writes model/, model.json, metrics.jsonl,
    examples.jsonl (what was taught, without the prompts).

    Raises NotEnoughDataError if no sample fits, LongfuseError if nothing was learned.
    """
    base = open_model_pointer(inputs["base_model"])
    if not config.sft.enabled:
        logger.info("sft is off: the base model is passed on")
        write_model_pointer(out_dir, base)
        write_text(out_dir / "metrics.jsonl", "")
        write_text(out_dir / "examples.jsonl", "")
        return {"updates": 0, "samples": 0}

    policy = build_policy(
        base,
        config.train,
        temperature=1.0,
        learning_rate=config.sft.learning_rate,
        optimizer=OptimizerSettings(
            config.sft.adam_beta1,
            config.sft.adam_beta2,
            config.sft.adam_epsilon,
            config.sft.weight_decay,
            config.sft.max_grad_norm,
        ),
    )
    world = current_world()
    base_digest = policy.digest()
    samples = read_records(inputs["samples"], Sample)
    documents = DocumentStore([inputs["documents"]])
    traces = _of_first_process(world, lambda: build_traces(config, samples, documents, state_dir))
    examples, too_long = build_examples(samples, documents, policy.tokenizer, config.sft.max_tokens, traces.texts)
    of_agent = agent_examples(
        samples,
        documents,
        policy.tokenizer,
        config.sft.agent,
        config.sft.agent_samples,
        config.sft.max_tokens,
        config.seed,
    )
    if config.sft.agent_samples and not of_agent:
        logger.warning("sft.agent_samples: no sample has evidence that an exact reader could keep in its memory")
    examples += of_agent
    if not examples:
        raise NotEnoughDataError(
            f"none of the {len(samples)} SFT samples has at most {config.sft.max_tokens} tokens (prompt plus answer). "
            "Raise sft.max_tokens or stratify.sft_samples_per_task, or set sft.enabled to false."
        )
    logger.info(
        "%d examples, %d of them turns of the memory agent; %d samples left out as longer than %d tokens",
        len(examples),
        len(of_agent),
        too_long,
        config.sft.max_tokens,
    )
    identity = fingerprint(config.model_dump_json(), base_digest, *(s.model_dump_json() for s in samples))
    identity = fingerprint(identity, *traces.texts, *traces.texts.values())  # a teacher's replies are data, too
    checkpoints = Checkpoints(
        state_dir,
        identity,
        keep=config.sft.keep_checkpoints,
        rank=world.rank,
        world_size=world.size,
        barrier=partial(world.meet, "checkpoint"),
    )
    progress = train(
        policy=policy,
        examples=examples,
        config=config.sft,
        seed=config.seed,
        checkpoints=checkpoints,
        work_dir=state_dir / identity,
        emit=emit,
        first_process=world.rank == 0,
    )
    if policy.digest() == base_digest:
        raise LongfuseError(
            f"after {progress.step} updates ({progress.skipped} skipped) the weights are bit for bit those of the base "
            "model: nothing was learned. Raise sft.learning_rate."
        )
    policy.save(out_dir / "model")
    if world.rank == 0:
        write_model_pointer(out_dir, out_dir / "model")
        shutil.copyfile(state_dir / identity / "metrics.jsonl", out_dir / "metrics.jsonl")
        taught = (_taught(example, policy.tokenizer.decode(example.answer_ids), traces) for example in examples)
        write_jsonl(out_dir / "examples.jsonl", taught)
        checkpoints.clear()
    return {
        "samples": len(examples) - len(of_agent),
        "too_long": too_long,
        "agent_turns": len(of_agent),
        "teacher_traces": len(traces.from_teacher),
        "proof_traces": len(traces.texts) - len(traces.from_teacher),
        "updates": progress.step,
        "skipped_updates": progress.skipped,
        "answer_tokens": progress.tokens,
    }


@dataclass(frozen=True)
class Traces:
    """Reasoning by sample id, and the ids of those that a teacher wrote."""

    texts: Mapping[str, str]
    from_teacher: frozenset[str]


def _of_first_process(world: World, build: Callable[[], Traces]) -> Traces:
    """The traces of process 0 on all of them: a teacher is asked once."""
    mine = build() if world.rank == 0 else Traces({}, frozenset())
    told = {"texts": dict(mine.texts), "from_teacher": sorted(mine.from_teacher)}
    told = world.from_first(told, "reasoning traces", TEACHER_SECONDS)
    return Traces(told["texts"], frozenset(told["from_teacher"]))


def build_traces(config: SftStage, samples: Sequence[Sample], documents: DocumentStore, state_dir: Path) -> Traces:
    """The reasoning that `sft.trace` asks for. Raises EndpointError if the teacher's endpoint refuses all calls."""
    if config.sft.trace == "none":
        return Traces({}, frozenset())
    teacher: Mapping[str, str] = {}
    if config.sft.trace == "teacher":
        teacher = asyncio.run(_ask_teacher(config, samples, documents, state_dir))
    proofs = {sample.id: proof_trace(sample, documents) for sample in samples if sample.id not in teacher}
    texts = {sample.id: teacher.get(sample.id) or proofs.get(sample.id) for sample in samples}
    return Traces({name: text for name, text in texts.items() if text is not None}, frozenset(teacher))


async def _ask_teacher(
    config: SftStage, samples: Sequence[Sample], documents: DocumentStore, state_dir: Path
) -> Mapping[str, str]:
    chat = open_chat(config.teacher, state_dir)
    assert chat is not None, "SftStage refuses trace teacher without endpoints.teacher.model"
    async with chat:
        return await teacher_traces(
            chat,
            samples,
            documents,
            attempts=config.sft.teacher_attempts,
            max_tokens=config.sft.teacher_max_tokens,
            temperature=config.sft.teacher_temperature,
            seed=config.seed,
        )


def _taught(example: Example, response: str, traces: Traces) -> dict[str, Any]:
    """An example as it may be read."""
    origin = "none"
    if example.form == "agent":
        origin = "agent"
    elif example.sample_id in traces.texts:
        origin = "teacher" if example.sample_id in traces.from_teacher else "proof"
    return {
        "id": example.sample_id,
        "task_type": example.task_type,
        "trace": origin,
        "prompt_tokens": len(example.prompt_ids),
        "response": response,
    }
