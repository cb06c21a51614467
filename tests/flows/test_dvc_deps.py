"""Code dependencies by imports, on a package made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.dvc_deps import CodeGraph, updated_dvc_yaml
from stages.common.errors import ConfigError

FILES = {
    "stages/__init__.py": "",
    "stages/common/__init__.py": "",
    "stages/common/text.py": "import re\nimport numpy as np\n",
    "stages/common/types_only.py": "",
    "stages/common/unused.py": "",
    "stages/sft/__init__.py": "",
    "stages/sft/config.py": "",
    "stages/sft/loss.py": "",
    "stages/sft/lazy.py": "",
    "stages/sft/helper.py": "from . import loss\nfrom ..common import text as t\n",
    "stages/sft/prompts/ask.md": "Ask. See style.md.",
    "stages/sft/prompts/style.md": "Short.",
    "stages/sft/prompts/orphan.md": "Nobody names me.",
    "stages/sft/stage.py": (
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from stages.sft.helper import something\n"
        "if TYPE_CHECKING:\n    from stages.common.types_only import T\nelse:\n    import stages.sft.config\n"
        "READERS = {'lazy': 'stages.sft.lazy:read'}\n"
        "def run():\n    return open('prompts/ask.md')\n"
    ),
    "stages/other/__init__.py": "",
    "stages/other/stage.py": "def run():\n    from stages import common\n    import stages.sft.loss\n",
}


@pytest.fixture
def graph(tmp_path: Path) -> CodeGraph:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return CodeGraph(tmp_path)


def test_everything_that_is_imported_or_named_is_a_dependency(graph: CodeGraph) -> None:
    assert graph.files_of("stages.sft.stage") == [
        "stages/__init__.py",
        "stages/common/__init__.py",
        "stages/common/text.py",
        "stages/sft/__init__.py",
        "stages/sft/config.py",  # in the else of `if TYPE_CHECKING`
        "stages/sft/helper.py",
        "stages/sft/lazy.py",  # named in a string
        "stages/sft/loss.py",  # relative import
        "stages/sft/prompts/ask.md",
        "stages/sft/prompts/style.md",  # named by ask.md
        "stages/sft/stage.py",
    ]


def test_imports_inside_functions_count_and_packages_come_with_their_modules(graph: CodeGraph) -> None:
    assert graph.files_of("stages.other.stage") == [
        "stages/__init__.py",
        "stages/common/__init__.py",
        "stages/other/__init__.py",
        "stages/other/stage.py",
        "stages/sft/__init__.py",
        "stages/sft/loss.py",
    ]


def test_a_module_that_does_not_exist_is_an_error(graph: CodeGraph) -> None:
    with pytest.raises(ConfigError, match=r"stages\.rl\.stage does not exist"):
        graph.files_of("stages.rl.stage")


def test_files_that_nobody_names_are_found(graph: CodeGraph) -> None:
    assert graph.unnamed_data_files() == ["stages/sft/prompts/orphan.md"]


def test_dvc_yaml_keeps_its_comments_and_other_dependencies(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "# the DAG\nstages:\n  one:\n    cmd: x  # why\n    deps:\n    - data\n    - stages/old.py\n    outs:\n    - out\n"
        "\n  two:\n    foreach: [a]\n    do:\n      cmd: y ${item}\n      outs:\n      - o/${item}\n"
    )
    text = updated_dvc_yaml(tmp_path, {"one": ["stages/a.py", "stages/b.py"], "two": ["stages/c.py"]})
    assert text == (
        "# the DAG\nstages:\n  one:\n    cmd: x  # why\n    deps:\n    - data\n    - stages/a.py\n    - stages/b.py\n"
        "    outs:\n    - out\n"
        "\n  two:\n    foreach: [a]\n    do:\n      cmd: y ${item}\n      deps:\n      - stages/c.py\n      outs:\n      - o/${item}\n"
    )
    (tmp_path / "dvc.yaml").write_text(text)
    assert updated_dvc_yaml(tmp_path, {"one": ["stages/a.py", "stages/b.py"], "two": ["stages/c.py"]}) == text
    with pytest.raises(ConfigError, match="no stage 'three'"):
        updated_dvc_yaml(tmp_path, {"three": []})
