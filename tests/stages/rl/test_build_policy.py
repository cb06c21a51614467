from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.common.config import TrainConfig
from stages.common.errors import ConfigError
from stages.rl import build_policy as module
from stages.rl.build_policy import build_policy
from stages.rl.torch_policy import TorchPolicy
from tests.stages.rl.tiny_world import OPTIMIZER, write_model_folder
from tests.train_settings import LORA_OFF, ONE_PROCESS, TRAIN

DEEPSPEED = ONE_PROCESS | {"backend": "deepspeed"}


def train_config(**distributed: object) -> TrainConfig:
    return TrainConfig.model_validate(TRAIN | {"distributed": ONE_PROCESS | distributed})


def build(folder: Path, config: TrainConfig):
    return build_policy(folder, config, temperature=1.0, learning_rate=1e-3, optimizer=OPTIMIZER)


def test_plain_torch_is_one_process(tmp_path: Path):
    policy = build(write_model_folder(tmp_path), train_config(activation_checkpointing=True, offload_activations=True))
    assert isinstance(policy, TorchPolicy)
    assert policy.model is not None


@pytest.mark.parametrize(("package", "lora"), [("deepspeed", LORA_OFF), ("peft", LORA_OFF | {"rank": 4})])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path: Path, monkeypatch, package, lora):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ConfigError, match=rf"{package} is not installed.*\.\[train\]"):
        build(tmp_path, train_config(backend="deepspeed", lora=lora))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 2}, "processes need backend deepspeed"),
        ({"sequence_parallel": 2, "lora": LORA_OFF | {"rank": 4}}, "sequence_parallel, lora.rank need backend"),
        ({"backend": "deepspeed", "zero_stage": 0, "offload_optimizer": True}, "offload_optimizer needs zero_stage"),
        (
            {"backend": "deepspeed", "zero_stage": 2, "offload_parameters": True},
            "offload_parameters needs zero_stage 3",
        ),
        ({"backend": "deepspeed", "offload_activations": True}, "needs activation_checkpointing"),
        ({"backend": "deepspeed", "processes": 3, "sequence_parallel": 2}, "2 does not divide processes 3"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        train_config(**changes)


def test_zero_stage_0_refuses_bfloat16():
    settings = TRAIN | {"compute_dtype": "bfloat16", "distributed": DEEPSPEED | {"zero_stage": 0}}
    with pytest.raises(ValidationError, match="zero_stage 0 needs compute_dtype float32"):
        TrainConfig.model_validate(settings)
