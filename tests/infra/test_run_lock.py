"""One run per working tree."""

import json
import os
import subprocess
import sys

import pytest

from infra.errors import TreeBusyError
from infra.lock import current_holder, lock_path, run_lock


def test_second_run_is_refused_and_told_who_holds_the_tree(tmp_path):
    with (
        run_lock(tmp_path, "longfuse run --profile tiny"),
        pytest.raises(TreeBusyError, match=rf"`longfuse run --profile tiny`, process {os.getpid()}"),
        run_lock(tmp_path, "longfuse run"),
    ):
        pass
    with run_lock(tmp_path, "longfuse run"):
        pass


def test_text_of_a_dead_holder_blocks_nobody(tmp_path):
    lock_path(tmp_path).write_text(json.dumps({"pid": 1, "command": "x", "started": 0.0}))
    assert current_holder(tmp_path) is None
    with run_lock(tmp_path, "longfuse run"):
        holder = current_holder(tmp_path)
        assert holder is not None
        assert (holder.pid, holder.command) == (os.getpid(), "longfuse run")
    assert current_holder(tmp_path) is None


def test_holder_killed_without_a_word_frees_the_tree(tmp_path):
    code = (
        "import sys, os; from pathlib import Path; from infra.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1]), 'x'):\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with run_lock(tmp_path, "longfuse run"):
        pass


def test_tree_without_a_lock_file_has_no_holder(tmp_path):
    assert current_holder(tmp_path / "nowhere") is None
