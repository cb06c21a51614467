"""One identity per stage: what was asked of it, as a hash.

The planner, the stage itself, its folder under .state, the MLflow tag and later the key of a cloud job all use it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(command: str, dependencies: Mapping[str, str | None], parameters: Mapping[str, Any]) -> str:
    """sha256 (hex) over the command, the md5 of every dependency and every parameter value.

    dependencies: path as in dvc.yaml -> md5 (DVC's: `.dir` at the end for a folder), None if there is nothing there.
    parameters: dotted key as in dvc.yaml -> value. The order of keys does not count, and 1 equals 1.0 as it does for DVC.
    """
    identity = {
        "command": command,
        "dependencies": dict(dependencies),
        "parameters": {key: _canonical(value) for key, value in parameters.items()},
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
