"""Run by test_resumed_shards.py: reads a folder's documents with kept shards on two workers, until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from stages.common.shards import ProcessExecutor
from stages.synthesis import extraction, numerical_corpus

if __name__ == "__main__":
    what, folder, state = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    extraction.SHARD_BYTES = numerical_corpus._SHARD_BYTES = int(sys.argv[4])
    if what == "triples":
        extraction.extract(folder, ProcessExecutor(2), False, state)
    else:
        numerical_corpus.read_figures(folder, ProcessExecutor(2), state)
