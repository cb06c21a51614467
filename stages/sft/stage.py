"""sft: the supervised warm-up before RL, or, switched off as in the paper, a pointer to the base model (no copy)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from stages.common.errors import LongfuseError, NotEnoughDataError
from stages.common.metrics import Emit
from stages.common.records import Sample
from stages.common.storage import DocumentStore, open_model_pointer, read_records, write_model_pointer, write_text
from stages.rl.checkpoint import Checkpoints, fingerprint
from stages.rl.policy import OptimizerSettings
from stages.rl.torch_policy import TorchPolicy
from stages.sft.config import SftStage
from stages.sft.dataset import build_examples
from stages.sft.train import train

logger = logging.getLogger(__name__)

# The constants of the RL stages (recipe section 3).
OPTIMIZER = OptimizerSettings(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0)


def run(config: SftStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Train `inputs["base_model"]` on `inputs["samples"]`; writes model/, model.json, metrics.jsonl.

    Raises NotEnoughDataError if no sample fits, LongfuseError if nothing was learned.
    """
    base = open_model_pointer(inputs["base_model"])
    if not config.sft.enabled:
        logger.info("sft is off: the base model is passed on")
        write_model_pointer(out_dir, base)
        write_text(out_dir / "metrics.jsonl", "")
        return {"updates": 0, "samples": 0}

    policy = TorchPolicy(
        base,
        compute_dtype=config.train.compute_dtype,
        temperature=1.0,
        learning_rate=config.sft.learning_rate,
        optimizer=OPTIMIZER,
    )
    base_digest = policy.digest()
    samples = read_records(inputs["samples"], Sample)
    examples, too_long = build_examples(
        samples, DocumentStore([inputs["documents"]]), policy.tokenizer, config.sft.max_tokens
    )
    if not examples:
        raise NotEnoughDataError(
            f"none of the {len(samples)} SFT samples has at most {config.sft.max_tokens} tokens (prompt plus answer). "
            "Raise sft.max_tokens or stratify.sft_samples_per_task, or set sft.enabled to false."
        )
    logger.info("%d samples, %d left out as longer than %d tokens", len(examples), too_long, config.sft.max_tokens)
    identity = fingerprint(config.model_dump_json(), base_digest, *(s.model_dump_json() for s in samples))
    checkpoints = Checkpoints(state_dir, identity)
    progress = train(
        policy=policy,
        examples=examples,
        config=config.sft,
        seed=config.seed,
        checkpoints=checkpoints,
        work_dir=state_dir / identity,
        emit=emit,
    )
    if policy.digest() == base_digest:
        raise LongfuseError(
            f"after {progress.step} updates ({progress.skipped} skipped) the weights are bit for bit those of the base "
            "model: nothing was learned. Raise sft.learning_rate."
        )
    policy.save(out_dir / "model")
    write_model_pointer(out_dir, out_dir / "model")
    shutil.copyfile(state_dir / identity / "metrics.jsonl", out_dir / "metrics.jsonl")
    checkpoints.clear()
    return {
        "samples": len(examples),
        "too_long": too_long,
        "updates": progress.step,
        "skipped_updates": progress.skipped,
        "answer_tokens": progress.tokens,
    }
