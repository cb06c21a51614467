"""The report stage: scores, metrics and summaries of all stages -> report.md and a self-contained report.html.

Nothing volatile goes in, so equal inputs give equal bytes; times, cost and lineage are rendered elsewhere, after the DAG.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from stages.common.metrics import Emit
from stages.common.storage import write_text
from stages.report.answers import read_answers
from stages.report.config import ReportStage
from stages.report.content import build_report
from stages.report.examples import choose_examples
from stages.report.load import load_report_data
from stages.report.paper import Variant
from stages.report.render_html import render_html
from stages.report.render_markdown import render_markdown

log = logging.getLogger(__name__)


def run(config: ReportStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit) -> dict[str, int]:
    """Write report.md and report.html. InputError names an input that is missing or damaged."""
    del state_dir, emit  # seconds of work, no steps
    data = load_report_data(inputs, out_dir)
    examples = choose_examples(inputs, config.report.examples_per_task, data.links)
    report = build_report(config.report.title, data, read_answers(inputs), examples, variant_of(config))
    write_text(out_dir / "report.md", render_markdown(report))
    write_text(out_dir / "report.html", render_html(report))
    for sentence in report.headline:
        log.info("%s", sentence)
    return {
        "benchmarks": len(report.score_pictures),
        "examples": len(report.examples),
        "failures": len(report.failures),
        "figures": 1 + len(report.score_pictures) + len(report.answer_pictures) + len(report.training_pictures),
    }


def variant_of(config: ReportStage) -> Variant:
    """How this run's RL was set."""
    clipping = "none" if config.clipping_level == "none" else f"{config.clipping_level}/{config.clipping_side}"
    return Variant(config.std_scope, config.aepo, clipping)
