"""What README.md and CONTRIBUTING.md name exists: commands, flags, make targets, files, profiles."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from flows.cli import app
from flows.params import apply_sets, list_profiles, profile_params

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^(?:    |\$ )longfuse (.+?)(?:\s+#.*)?$", re.MULTILINE)


def documented() -> list[list[str]]:
    return [match.split() for match in COMMAND.findall(README)]


def test_readme_shows_commands():
    assert len(documented()) >= 8


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_a_documented_command_and_its_flags_exist(words):
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    flags = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= flags
    for flag, value in pairwise(words):
        if flag == "--set":
            apply_sets(profile_params("tiny"), [value])
        if flag == "--profile":
            assert value in list_profiles()


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_documented_make_targets_exist(text):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make ([\w-]+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_documented_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    for row in [line for line in README.splitlines() if line.startswith("| ") and "`stages/" in line]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        folder = ""
        for name in re.findall(r"`([^`]+)`", cells[2]):
            path = name if name.startswith("stages/") else f"{folder}/{name}"
            folder = str(Path(path).parent)
            assert (ROOT / path).exists(), path
        for name in re.findall(r"`([^`]+)`", cells[4]):
            assert (ROOT / name).exists(), name


def test_documented_parameters_exist():
    params = profile_params("tiny")
    for row in [line for line in README.splitlines() if line.startswith("| ") and "`stages/" in line]:
        for dotted in re.findall(r"`([^`]+)`", row.strip("|").split("|")[3]):
            value: object = params
            for part in dotted.removesuffix(".*").split("."):
                assert isinstance(value, dict), dotted
                value = value[part]
