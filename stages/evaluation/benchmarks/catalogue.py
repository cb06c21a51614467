"""All benchmarks, in the order in which `longfuse eval --list` shows them."""

from __future__ import annotations

from stages.evaluation.base import Benchmark
from stages.evaluation.benchmarks.babilong import BABILONG
from stages.evaluation.benchmarks.bfcl_memory import BFCL_MEMORY
from stages.evaluation.benchmarks.corpus_numerical import CORPUS_NUMERICAL
from stages.evaluation.benchmarks.docmath import CONVFINQA, DOCMATH, TATQA
from stages.evaluation.benchmarks.frames import FRAMES
from stages.evaluation.benchmarks.graphwalks import GRAPHWALKS
from stages.evaluation.benchmarks.hotpotqa import HOTPOTQA
from stages.evaluation.benchmarks.live_math import LIVE_MATH
from stages.evaluation.benchmarks.longbench_v1 import LONGBENCH_V1
from stages.evaluation.benchmarks.longbench_v2 import LONGBENCH_V2, LONGBENCH_V2_COT
from stages.evaluation.benchmarks.longmemeval import LONGMEMEVAL
from stages.evaluation.benchmarks.mmlu_pro import MMLU_PRO
from stages.evaluation.benchmarks.mrcr import MRCR
from stages.evaluation.benchmarks.mrcr_made import MRCR_MADE
from stages.evaluation.benchmarks.musique import MUSIQUE
from stages.evaluation.benchmarks.nocha import NOCHA
from stages.evaluation.benchmarks.own import OWN
from stages.evaluation.benchmarks.qmsum import QMSUM
from stages.evaluation.benchmarks.ruler import RULER
from stages.evaluation.benchmarks.ultra_long import ULTRA_LONG

BENCHMARKS: tuple[Benchmark, ...] = (
    # The paper's six, then ultra-long and memory, then general ability, then the project's own.
    LONGBENCH_V2,
    LONGBENCH_V2_COT,
    LONGBENCH_V1,
    FRAMES,
    MRCR,
    DOCMATH,
    TATQA,
    CONVFINQA,
    MUSIQUE,
    HOTPOTQA,
    QMSUM,
    NOCHA,
    LONGMEMEVAL,
    BFCL_MEMORY,
    RULER,
    BABILONG,
    GRAPHWALKS,
    MRCR_MADE,
    CORPUS_NUMERICAL,
    *ULTRA_LONG,
    MMLU_PRO,
    LIVE_MATH,
    *OWN,
)


def by_name() -> dict[str, Benchmark]:
    """The benchmarks by the name that `--benchmark` takes."""
    return {benchmark.name: benchmark for benchmark in BENCHMARKS}
