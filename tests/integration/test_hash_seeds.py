"""Questions, contexts and verdicts are the same bytes whatever Python's hash seed: no set is walked in its own order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path

from benchmarks.synthesis import run_stage, verify_programs
from flows.catalog import TASKS
from flows.params import profile_params
from stages.base_model.random_model import write_random_model

out = Path(sys.argv[1])
params = profile_params("plumbing")
write_random_model(out / "model", 3)
tokenizer = out / "model" / "tokenizer.json"
documents = out / "ingest" / "data"
run_stage(
    "ingest", params, {"corpus": Path("data/starter_corpus"), "tokenizer": tokenizer, "benchmarks": Path("data/benchmarks")}, out
)
for task in TASKS:
    of_task = documents / ("dialogues" if task == "dialogue_memory" else "documents")
    run_stage(f"synthesize@{task}", params, {"documents": of_task}, out)
questions = {task: out / "synthesize" / task / "data" / "qa.jsonl" for task in TASKS}
run_stage("assemble", params, {"documents": documents, "tokenizer": tokenizer, **questions}, out)
verify_programs(out)
"""


def outputs(folder: Path, seed: str) -> dict[str, bytes]:
    """Every file that the stages wrote, by its path."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, folder], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("data/**/*")) if path.is_file()
    }


def test_all_data_stages_write_the_same_bytes_with_other_hash_seeds(tmp_path):
    first, second = (outputs(tmp_path / seed, seed) for seed in ("1", "4242"))
    assert len(first) > 20
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
