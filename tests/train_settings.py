"""Parameters of stages under test. TRAIN: float32 on one CPU thread, plain torch, one process. SFT: a short warm-up. RL_SHARED: small groups, AEPO on."""

from __future__ import annotations

from typing import Any

LORA_OFF: dict[str, Any] = {"rank": 0, "alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
ONE_PROCESS: dict[str, Any] = {
    "backend": "torch",
    "processes": 0,
    "zero_stage": 3,
    "offload_optimizer": False,
    "offload_parameters": False,
    "activation_checkpointing": False,
    "offload_activations": False,
    "sequence_parallel": 1,
    "lora": LORA_OFF,
}
ENGINE: dict[str, Any] = {
    "kind": "transformers",
    "gpu_memory_utilization": 0.5,
    "tensor_parallel_size": 1,
    "max_num_batched_tokens": None,
    "enforce_eager": False,
    "sleep_level": 2,
    "timeout_seconds": 600,
}
TRAIN: dict[str, Any] = {"cpu_threads": 1, "compute_dtype": "float32", "distributed": ONE_PROCESS, "engine": ENGINE}
AGENT: dict[str, Any] = {
    "chunk_tokens": 64,
    "memory_tokens": 80,
    "turn_tokens": 200,
    "answer_tokens": 24,
    "prompt_order": "memory_first",
    "split_question": "rules",
}
SFT: dict[str, Any] = {
    "enabled": True,
    "steps": 4,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "max_tokens": 512,
    "trace": "none",
    "teacher_attempts": 2,
    "teacher_max_tokens": 256,
    "teacher_temperature": 0.7,
    "agent_samples": 0,
    "agent": AGENT,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 1,
    "max_skipped_steps": 0,
}
RL_SHARED: dict[str, Any] = {
    "group_size": 3,
    "batch_size": 6,
    "temperature": 1.0,
    "top_p": 1.0,
    "std_scope": "task",
    "denominator": "group",
    "aepo": {"enabled": True, "entropy_low": 0.1, "entropy_high": 99.0, "entropy_source": "same_batch"},
    "negative_clipping": {"level": "none", "side": "high", "threshold": 0.0},
    "overlong": "keep",
    "overlong_buffer_tokens": 0,
    "dynamic_sampling": False,
    "max_refills": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "max_row_tokens": 2048,
    "overlong_prompts": "drop",
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 1,
    "eval_every_steps": 0,
    "eval_prompts": 1,
    "max_skipped_steps": 0,
}
