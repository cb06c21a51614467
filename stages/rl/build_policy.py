"""The policy that `train.distributed` asks for: plain torch on one device, or DeepSpeed on all processes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stages.common.config import TrainConfig
from stages.common.errors import ConfigError
from stages.rl.policy import OptimizerSettings, Policy
from stages.rl.torch_policy import TorchPolicy


def build_policy(
    folder: Path, train: TrainConfig, *, temperature: float, learning_rate: float, optimizer: OptimizerSettings
) -> Policy:
    """Open the model of `folder` for training.

    Raises ConfigError if a package that the parameters need is not installed, and what the policies raise.
    """
    distributed = train.distributed
    if distributed.backend == "torch":
        return TorchPolicy(
            folder,
            compute_dtype=train.compute_dtype,
            temperature=temperature,
            learning_rate=learning_rate,
            optimizer=optimizer,
            activation_checkpointing=distributed.activation_checkpointing,
            offload_activations=distributed.offload_activations,
        )
    _require("deepspeed", "train.distributed.backend is deepspeed")
    if distributed.lora.rank:
        _require("peft", f"train.distributed.lora.rank is {distributed.lora.rank}")
    from stages.rl.deepspeed_policy import DeepSpeedPolicy

    return DeepSpeedPolicy(
        folder,
        distributed,
        compute_dtype=train.compute_dtype,
        temperature=temperature,
        learning_rate=learning_rate,
        optimizer=optimizer,
    )


def _require(package: str, reason: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f"{reason}, but the package {package} is not installed. Install the extra `train` "
            "(pip install -e '.[train]'), or change that parameter."
        )
