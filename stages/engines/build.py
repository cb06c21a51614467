"""From `train.engine` to an engine: the one place that knows all kinds.

transformers   any machine; shares the trainer's weights if it is given its model
vllm           GPUs; a copy of the weights in the trainer's process, fed by load_weights
remote         a vLLM server elsewhere, its address in stages/engines/access.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.config import TrainConfig
from stages.engines.access import remote_engine
from stages.engines.base import RolloutEngine

if TYPE_CHECKING:
    from stages.common.tokens import ChatTokenizer


def build_engine(
    model_dir: Path,
    train_config: TrainConfig,
    *,
    model: Any = None,
    tokenizer: ChatTokenizer | None = None,
    max_model_tokens: int | None = None,
    batch_groups: bool = False,
) -> RolloutEngine:
    """Make the engine of `train_config.engine` for the model in a folder.

    model: the trainer's own model; the transformers engine then uses its weights instead of a copy.
    max_model_tokens: longest prompt plus answer that will be asked; None: what the model and the memory allow.
    batch_groups: the transformers engine may let groups share batches (faster, the same answers up to rounding).
    Raises InputError or ConfigError for an engine that is not installed, not reachable or does not know the model.
    """
    config = train_config.engine
    if config.kind == "vllm":
        from stages.engines.vllm_engine import VLLMEngine

        return VLLMEngine(
            model_dir,
            compute_dtype=train_config.compute_dtype,
            max_model_tokens=max_model_tokens,
            gpu_memory_utilization=config.gpu_memory_utilization,
            tensor_parallel_size=config.tensor_parallel_size,
            max_num_batched_tokens=config.max_num_batched_tokens,
            enforce_eager=config.enforce_eager,
            sleep_level=config.sleep_level,
            tokenizer=tokenizer,
            timeout_seconds=config.timeout_seconds,
        )
    if config.kind == "remote":
        from stages.engines.remote_engine import RemoteEngine

        return RemoteEngine(
            model_dir,
            remote_engine(),
            max_model_tokens=max_model_tokens,
            tokenizer=tokenizer,
            timeout_seconds=config.timeout_seconds,
        )
    from stages.engines.transformers_engine import TransformersEngine

    return TransformersEngine(
        model_dir,
        compute_dtype=train_config.compute_dtype,
        max_model_tokens=max_model_tokens,
        model=model,
        tokenizer=tokenizer,
        batch_groups=batch_groups,
    )
