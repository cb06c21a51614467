"""Our scores in the form of the paper's tables, with the paper's own numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stages.report import paper
from stages.report.load import FIRST_MODEL, MODELS
from stages.report.scores import HELDOUT, Interval, mean_over_tasks
from stages.report.scores import Table as ScoreTable
from stages.report.tables import Table, percent

_DASH = "–"
_RL_MODEL = "stage3"
_NOT_COMPARABLE = (
    "Rows and columns marked “paper” are the paper's, of a 30B model on the official data. Compare directions, not levels: another model, "
    "other lengths, and the held-out tasks are our own."
)


def paper_tables(
    full: ScoreTable, agent: ScoreTable, links: Mapping[str, str], run: paper.Variant
) -> tuple[Table, ...]:
    """Models by benchmark (Table 7), stage by stage, memory agent, ablations. run: how this run's RL was set."""
    return (_by_benchmark(full, links), _by_stage(full, links), _by_agent(agent, links), _ablations(full, links, run))


def mean_of_benchmark(table: ScoreTable, model: str, benchmark: str) -> Interval | None:
    """A benchmark's rows (`mrcr`, `mrcr/2/8192`, ...) each counting once; None if the model was asked none of them."""
    rows = [row[model] for name, row in table.items() if _is_part(name, benchmark) and model in row]
    if not rows:
        return None
    mean = math.fsum(row.mean for row in rows) / len(rows)
    below = math.sqrt(math.fsum((row.mean - row.low) ** 2 for row in rows)) / len(rows)
    above = math.sqrt(math.fsum((row.high - row.mean) ** 2 for row in rows)) / len(rows)
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above), sum(row.n for row in rows))


# The paper's LongBench v1 QA; its other sets (passages, counts, multifieldqa) are in our other tables only.
_LONGBENCH_V1_QA = frozenset({"2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper"})
# In DocMath's form, but no part of it.
_NOT_DOCMATH = frozenset({"tatqa", "convfinqa"})


def _is_part(name: str, benchmark: str) -> bool:
    """True if a row of the score table counts in a column of Table 7."""
    first, _, part = name.partition("/")
    if first != benchmark:
        return False
    if benchmark == "longbench_v1":
        return part in _LONGBENCH_V1_QA
    return benchmark != "docmath" or part not in _NOT_DOCMATH


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return _DASH
    return f"{percent(interval.mean)} [{100 * interval.low:.0f}, {100 * interval.high:.0f}] n={interval.n}"


def _figure(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2f}"


def _change(value: float | None, before: float | None) -> str:
    return _DASH if value is None or before is None else f"{value - before:+.1f}"


def _average(full: ScoreTable, model: str) -> str:
    """Over the six benchmarks; over some of them it would be of other questions than the paper's, so a dash."""
    scores = [mean_of_benchmark(full, model, benchmark) for _, benchmark in paper.BENCHMARKS]
    known = [score.mean for score in scores if score is not None]
    return percent(math.fsum(known) / len(known)) if len(known) == len(paper.BENCHMARKS) else _DASH


def _by_benchmark(full: ScoreTable, links: Mapping[str, str]) -> Table:
    """Table 7: models by benchmark."""
    rows, row_links = [], []
    for model in MODELS:
        scores = [mean_of_benchmark(full, model, benchmark) for _, benchmark in paper.BENCHMARKS]
        own = _cell(mean_over_tasks(full, model))
        rows.append((model, own, _average(full, model), *(_cell(score) for score in scores)))
        row_links.append(links[f"evaluate_{model}/scores.json"])
    for name, mean, theirs in paper.TABLE_7:
        rows.append((f"paper: {name}", _DASH, _figure(mean), *(_figure(v) for v in theirs or (None,) * 6)))
        row_links.append("")
    header = ("model", "held-out tasks", "average of the six", *(column for column, _ in paper.BENCHMARKS))
    return Table(
        "Models and benchmarks, in the form of the paper's Table 7",
        header,
        tuple(rows),
        "Our CorpusQA is the generated set corpus_numerical, since the paper's has no published data. "
        + _NOT_COMPARABLE,
        tuple(row_links),
    )


def _by_stage(full: ScoreTable, links: Mapping[str, str]) -> Table:
    """What each stage of training adds, full context."""
    rows, row_links = [], []
    ours_before = theirs_before = None
    for model in MODELS:
        ours = mean_over_tasks(full, model)
        value = None if ours is None else 100 * ours.mean
        theirs = paper.STAGES.get(model, paper.StageScores()).average
        rows.append((model, _cell(ours), _change(value, ours_before), _figure(theirs), _change(theirs, theirs_before)))
        row_links.append(links[f"evaluate_{model}/scores.json"])
        ours_before = value if value is not None else ours_before
        theirs_before = theirs if theirs is not None else theirs_before
    header = ("model", "held-out tasks", "change", "paper: six benchmarks", "paper: change")
    note = "Change: from the row above that has a score. The paper has no warm-up (sft). " + _NOT_COMPARABLE
    return Table("What each stage adds, beside the paper's", header, tuple(rows), note, tuple(row_links))


def _by_agent(agent: ScoreTable, links: Mapping[str, str]) -> Table:
    """The memory agent, on documents beyond the window."""
    rows, row_links = [], []
    probes = [name for name in agent if not name.startswith(HELDOUT)]
    for model in MODELS:
        theirs = paper.STAGES.get(model, paper.StageScores())
        rows.append(
            (
                model,
                _cell(mean_over_tasks(agent, model)),
                *(_cell(agent[name].get(model)) for name in probes),
                _figure(theirs.mrcr_agent),
                _figure(theirs.corpusqa_agent),
            )
        )
        row_links.append(links[f"evaluate_{model}/scores.json"])
    header = ("model", "held-out tasks", *probes, "paper: MRCR 512K to 1M", "paper: CorpusQA 4M")
    return Table("Memory agent, beside the paper's", header, tuple(rows), _NOT_COMPARABLE, tuple(row_links))


def _ablations(full: ScoreTable, links: Mapping[str, str], run: paper.Variant) -> Table:
    """The paper's ablations, this run's scores in the lines that are its own: the base model's, and its RL settings'."""
    rows, row_links = [], []
    for ablation in paper.ABLATIONS:
        model = FIRST_MODEL if ablation is paper.ABLATIONS[0] else _RL_MODEL
        is_ours = model == FIRST_MODEL or paper.is_line_of(ablation, run)
        ours = (_cell(mean_over_tasks(full, model)), _average(full, model)) if is_ours else (_DASH, _DASH)
        rows.append((ablation.group, ablation.variant_name, _figure(ablation.average), *ours, ablation.here))
        row_links.append(links[f"evaluate_{model}/scores.json"] if is_ours else "")
    note = (
        f"Averages of the paper: Qwen3-4B-Thinking-2507. This run: {FIRST_MODEL}, and {_RL_MODEL}, the last model before the "
        "merge, in the line of its RL settings; the other lines are other runs: set the parameters in the last column and "
        "compare the two (`longfuse compare`). Compare directions, not levels: another model, other data and other lengths."
    )
    header = ("of", "variant", "paper: average", "this run: held-out tasks", "this run: average of the six", "here")
    return Table(
        "Ablations of the paper, beside this run, and how to run them", header, tuple(rows), note, tuple(row_links)
    )
