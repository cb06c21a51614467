"""Which locked environment a stage gets on its node: the project's own, or the one with vLLM.

    python -m infra.ec2.environments    # the requirements with vLLM

vLLM wants fastapi < 0.137 and Prefect's server >= 0.139, so one environment cannot hold both. A node needs no Prefect, no MLflow and
no simulator: it does one stage by DVC. What its parameters say decides (`engine: {kind: vllm}`), nothing else.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Environment:
    """extras: of pyproject.toml, besides the project's dependencies. without: packages of these that only the launching side needs."""

    name: str
    lock: str  # exact versions, a file of the project
    extras: tuple[str, ...]
    without: frozenset[str] = frozenset()

    def requirements(self, root: Path) -> list[str]:
        """What a stage on a node needs, not the project itself, which comes as code."""
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        words = [*project.get("dependencies", []), *(word for name in self.extras for word in extras.get(name, []))]
        return [word for word in words if package_of(word) not in self.without]

    @property
    def install(self) -> list[str]:
        """Words after `pip install`, in the code's folder, where a node takes it from an index."""
        if not self.without:
            return ["-c", self.lock, "-e", f".[{','.join(self.extras)}]"]
        return [
            "-r",
            self.lock,
        ]  # installing the project would bring what it is without; its code is found from its folder


TRAIN = Environment("train", "constraints.txt", ("train", "aws"))
VLLM = Environment(
    "vllm", "constraints-vllm.txt", ("train", "gpu", "aws"), frozenset({"prefect", "fastapi", "mlflow", "moto"})
)


def package_of(requirement: str) -> str:
    """The normal name of the package that a requirement is about."""
    found = PACKAGE.match(requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def environment_of(parameters: Mapping[str, Any]) -> Environment:
    """parameters: those of a stage, with dotted or nested keys."""
    return VLLM if "vllm" in _engines(parameters) else TRAIN


def _engines(values: Mapping[str, Any]) -> set[Any]:
    """The kind of every engine."""
    found = set()
    for key, value in values.items():
        last = key.rpartition(".")[2]
        if last == "engine" and isinstance(value, Mapping):
            found.add(value.get("kind"))
        elif key == "engine.kind" or key.endswith(".engine.kind"):
            found.add(value)
        elif isinstance(value, Mapping):
            found |= _engines(value)
    return found


if __name__ == "__main__":  # for the Makefile, whose .venv-vllm is the same for CPUs
    sys.stdout.write("\n".join(VLLM.requirements(Path(__file__).parents[2])) + "\n")
