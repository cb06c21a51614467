"""What a stage leaves outside DVC: `.state/<stage>/<fingerprint>/` with checkpoints, the metric spool and run.json.

Checkpoints there survive a crash and are used only for the same fingerprint, so a changed parameter never resumes from
another run's weights.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.spool import SPOOL_NAME

RUN_FILE = "run.json"
KEEP_WHOLE = 3  # fingerprints per stage whose checkpoints are kept
KEEP_RECORDS = 50  # and whose run.json is kept
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "duckdb", "dvc", "prefect", "mlflow")


def state_folder(root: Path, stage: str) -> Path:
    """`rl@stage1` -> .state/rl/stage1"""
    return root / ".state" / Path(*stage.split("@"))


def open_state(root: Path, stage: str, fingerprint: str) -> Path:
    """The state folder of one fingerprint, made if need be; older ones of this stage are thinned out."""
    folder = state_folder(root, stage) / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    others = [path for path in folder.parent.iterdir() if _FINGERPRINT.fullmatch(path.name) and path != folder]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEEP_WHOLE - 1 :]:
        _thin_out(path)
    for path in others[KEEP_RECORDS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    return folder


def _thin_out(folder: Path) -> None:
    """Leave only the record of a run that succeeded, at the age that it has; of others nothing."""
    age = folder.stat()
    _keep_only(folder, {RUN_FILE})
    if not any(folder.iterdir()):
        folder.rmdir()
    else:
        os.utime(folder, ns=(age.st_atime_ns, age.st_mtime_ns))


def clear_checkpoints(state_dir: Path) -> None:
    """After success: only the record of the run and its metrics stay."""
    _keep_only(state_dir, {RUN_FILE, SPOOL_NAME})


def _keep_only(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name in names:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def package_versions() -> dict[str, str]:
    """Python and the packages that results may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine as far as it explains seconds and differences in the last bits."""
    import psutil

    description: dict[str, Any] = {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        description["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return description


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory_mb() -> float:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def without_absolute_paths(value: Any) -> Any:
    """A configuration as it may stand in a cached file: of a path outside the project only the last part."""
    if isinstance(value, Mapping):
        return {key: without_absolute_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_absolute_paths(item) for item in value]
    if isinstance(value, str):
        scheme, colon, rest = value.rpartition(":")
        if rest.startswith(("/", "~")) and not rest.startswith("//"):  # not a URL
            return f"{scheme}{colon}{Path(rest).name}"
    return value
