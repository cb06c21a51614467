"""What the report says, before it is Markdown or HTML: sentences, tables, pictures, examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from stages.report.answers import Answers
from stages.report.departures import DEPARTURES
from stages.report.examples import Example, failure_examples
from stages.report.figures import Picture, bin_panel, metric_panel, score_panel
from stages.report.load import (
    AGENT,
    CLOSED_BOOK,
    FIRST_MODEL,
    FULL_CONTEXT,
    LAST_MODEL,
    MODELS,
    TRAINED,
    WARM_MODEL,
    ReportData,
)
from stages.report.paper import Variant
from stages.report.paper_tables import paper_tables
from stages.report.scores import HELDOUT, Comparison, Interval, compare, mean_over_tasks, table_of
from stages.report.scores import Table as ScoreTable
from stages.report.tables import Table, number, percent, tables_of_summary, words
from stages.report.training import task_keys, training_table


@dataclass(frozen=True)
class Card:
    """One figure of the headline: a benchmark before and after, in percent."""

    label: str
    before: str
    after: str
    detail: str
    clear_gain: bool


@dataclass(frozen=True)
class Report:
    """Everything that is rendered, in reading order. All text is plain, not escaped."""

    title: str
    headline: tuple[str, ...]
    headline_links: tuple[str, ...]
    cards: tuple[Card, ...]
    path: Table
    paper: tuple[Table, ...]
    score_tables: tuple[Table, ...]
    path_picture: Picture
    score_pictures: tuple[Picture, ...]
    answer_pictures: tuple[Picture, ...]
    failure_kinds: Table
    failures: tuple[Example, ...]
    training: Table
    training_pictures: tuple[Picture, ...]
    data: tuple[Table, ...]
    merge: tuple[Table, ...]
    examples: tuple[Example, ...]
    departures: tuple[tuple[str, str], ...]
    sources: Table


def build_report(title: str, data: ReportData, answers: Answers, examples: list[Example], run: Variant) -> Report:
    """Compute every sentence, table and figure from the stages' files. run: how its RL was set."""
    links = data.links
    score_links = tuple(links[f"evaluate_{model}/scores.json"] for model in MODELS)
    answer_links = tuple(links[f"evaluate_{model}/predictions.jsonl"] for model in (FIRST_MODEL, LAST_MODEL))
    full, agent = table_of(data.scores, FULL_CONTEXT), table_of(data.scores, AGENT)
    comparisons = compare(full, FIRST_MODEL, LAST_MODEL)
    return Report(
        title=title,
        headline=tuple(_headline(data, full, comparisons)),
        headline_links=(
            *(links[f"evaluate_{model}/scores.json"] for model in (FIRST_MODEL, WARM_MODEL, LAST_MODEL)),
            *(links[f"metrics_{stage}"] for stage in TRAINED),
        ),
        cards=tuple(_card(comparison) for comparison in comparisons if comparison.benchmark.startswith(HELDOUT)),
        path=_path(full, agent, score_links),
        paper=paper_tables(full, agent, links, run),
        score_tables=tuple(
            _score_table(name, table, links)
            for name, table in (
                ("full context", full),
                ("memory agent", agent),
                ("closed book", table_of(data.scores, CLOSED_BOOK)),
            )
            if table
        ),
        path_picture=_linked(
            score_panel(
                "Mean over the held-out task types",
                {mode: _means(table) for mode, table in ((FULL_CONTEXT, full), (AGENT, agent))},
            ),
            score_links,
        ),
        score_pictures=tuple(
            _linked(
                score_panel(
                    _short(name),
                    {mode: table[name] for mode, table in ((FULL_CONTEXT, full), (AGENT, agent)) if name in table},
                ),
                score_links,
            )
            for name in dict.fromkeys([*full, *agent])
        ),
        answer_pictures=_answer_pictures(answers, answer_links),
        failure_kinds=_failure_table(answers, answer_links),
        failures=tuple(failure_examples(answers.failures, links)),
        training=training_table(data.metrics, links),
        training_pictures=_training_pictures(data),
        data=tuple(_data_tables(data)),
        merge=tuple(_merge_tables(data)),
        examples=tuple(examples),
        departures=DEPARTURES,
        sources=_sources(data),
    )


def _linked(picture: Picture, links: tuple[str, ...]) -> Picture:
    return replace(picture, links=links)


def _answer_pictures(answers: Answers, links: tuple[str, ...]) -> tuple[Picture, ...]:
    pictures = (
        bin_panel("Accuracy by place of the evidence", answers.by_position, "where the first evidence begins"),
        bin_panel("Accuracy by length of the document", answers.by_length, "tokens"),
    )
    return tuple(_linked(picture, links) for picture in pictures if picture is not None)


def _failure_table(answers: Answers, links: tuple[str, ...]) -> Table:
    rows = tuple(
        (
            kind.kind,
            number(kind.count),
            percent(kind.count / answers.asked),
            number(kind.with_cut_context),
            number(kind.right_before),
        )
        for kind in answers.kinds
    )
    header = ("kind", "answers", "of all, percent", "context was cut", f"{FIRST_MODEL} was right")
    wrong = sum(kind.count for kind in answers.kinds)
    note = (
        f"{wrong:,} of {answers.asked:,} answers of {LAST_MODEL}, all benchmarks and modes, scored below 0.5. The kind is what "
        "the answer's text tells, the first that fits."
    )
    return Table(
        f"Failures of {LAST_MODEL} by kind", header, rows, note, column_links=("", *(links[-1],) * 3, links[0])
    )


def _headline(data: ReportData, full: ScoreTable, comparisons: list[Comparison]) -> list[str]:
    updates = {stage: len(data.metrics[stage]) for stage in TRAINED}
    sentences = [
        f"Trained in {sum(updates.values()):,} updates: "
        + ", ".join(f"{stage} {count}" for stage, count in updates.items() if count)
        + "; the experts stage3 and memory were merged before stage4."
    ]
    # Only tasks that both were asked: otherwise the means would be of different questions.
    tasks = [comparison.benchmark for comparison in comparisons]
    first, last = mean_over_tasks(full, FIRST_MODEL, tasks), mean_over_tasks(full, LAST_MODEL, tasks)
    if first and last:
        sentences.append(
            f"Mean over the held-out task types, full context: {FIRST_MODEL} {_spoken(first)}, "
            f"{LAST_MODEL} {_spoken(last)}; the intervals {'overlap' if first.overlaps(last) else 'are disjoint'}."
        )
    for after in (WARM_MODEL, LAST_MODEL):
        sentences.append(_clear_differences(compare(full, FIRST_MODEL, after), after))
    return sentences


def _clear_differences(comparisons: list[Comparison], after: str) -> str:
    """Which benchmarks differ by more than chance, up or down, and how many do not."""
    clear = [c for c in comparisons if c.clear]
    if not clear:
        return f"{FIRST_MODEL} and {after}: on none of {len(comparisons)} benchmarks are the 95 % intervals disjoint."
    spoken = "; ".join(
        f"{_short(c.benchmark)} {percent(c.before.mean)} → {percent(c.after.mean)}" + ("" if c.gained else " (a loss)")
        for c in clear
    )
    return f"{FIRST_MODEL} and {after}: disjoint 95 % intervals on {len(clear)} of {len(comparisons)} benchmarks: {spoken}."


def _spoken(interval: Interval) -> str:
    return f"{percent(interval.mean)} % ({percent(interval.low)} to {percent(interval.high)}, n = {interval.n})"


def _short(benchmark: str) -> str:
    return words(benchmark.removeprefix(HELDOUT))


def _card(comparison: Comparison) -> Card:
    after = comparison.after
    return Card(
        label=_short(comparison.benchmark),
        before=percent(comparison.before.mean),
        after=percent(after.mean),
        detail=f"{100 * after.low:.0f} to {100 * after.high:.0f}, n = {after.n}",
        clear_gain=comparison.clear and comparison.gained,
    )


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{percent(interval.mean)} [{100 * interval.low:.0f}, {100 * interval.high:.0f}] n={interval.n}"


def _means(table: ScoreTable) -> dict[str, Interval]:
    means = {model: mean_over_tasks(table, model) for model in MODELS}
    return {model: interval for model, interval in means.items() if interval is not None}


def _path(full: ScoreTable, agent: ScoreTable, links: tuple[str, ...]) -> Table:
    """Mean over the task types for every model, in the order in which they come into being."""
    rows = tuple((model, _cell(mean_over_tasks(full, model)), _cell(mean_over_tasks(agent, model))) for model in MODELS)
    return Table(
        "Mean over the held-out task types",
        ("model", "full context", "memory agent"),
        rows,
        "Percent, [95 % interval], n questions; each task type counts once. Models that were asked few questions have wide "
        "intervals: compare those, not the means alone.",
        row_links=links,
    )


def _score_table(name: str, table: ScoreTable, links: Mapping[str, str]) -> Table:
    models = [model for model in MODELS if any(model in row for row in table.values())]
    rows = tuple((_short(benchmark), *(_cell(row.get(model)) for model in models)) for benchmark, row in table.items())
    return Table(
        f"Scores, {name}",
        ("benchmark", *models),
        rows,
        "Percent, [95 % interval], n questions.",
        column_links=("", *(links[f"evaluate_{model}/scores.json"] for model in models)),
    )


def _training_pictures(data: ReportData) -> tuple[Picture, ...]:
    losses = sorted({key for step in data.metrics["sft"] for key in step if key.startswith("loss/")})
    pictures = [
        metric_panel("Warm-up: loss", {"sft": data.metrics["sft"]}, {key: key for key in losses}),
        metric_panel("Mean reward", data.metrics, {"reward/mean": "reward"}),
        metric_panel("Mean reward per task type", data.metrics, task_keys(data.metrics)),
        metric_panel(
            "Entropy, nats (shaded: negatives masked)",
            data.metrics,
            {"entropy/seq_mean": "entropy"},
            shade="aepo/masking",
        ),
        metric_panel("Mean response length, tokens", data.metrics, {"len/response/mean": "tokens"}),
    ]
    links = tuple(data.links[f"metrics_{stage}"] for stage in TRAINED)
    return tuple(_linked(picture, links) for picture in pictures if picture is not None)


def _data_tables(data: ReportData) -> list[Table]:
    tables = [
        table
        for stage, summary in data.summaries.items()
        for table in tables_of_summary(stage, summary, data.links[stage])
    ]
    if data.bins:
        edges = next(iter(data.bins.values())).edges
        header = ("", *(f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)))
        rows = tuple(
            (words(task), *(f"{drawn} of {there}" for drawn, there in zip(bins.drawn, bins.available, strict=True)))
            for task, bins in data.bins.items()
        )
        note = "Mean reward of the base model over its attempts; RL prompts that were drawn, of the samples that there were."
        tables.append(Table("stratify: pass@k bins", header, rows, note, link=data.links["bins"]))
    return tables


def _merge_tables(data: ReportData) -> list[Table]:
    """merge.json, with its list of tensors reduced to those that moved most."""
    plain = {key: value for key, value in data.merge.items() if isinstance(value, (str, int, float))}
    plain["experts"] = ", ".join(str(name) for name in data.merge.get("experts", []))
    tables = [Table("Merge", ("what", "value"), tuple((words(key), number(value)) for key, value in plain.items()))]
    summary = data.merge.get("summary")
    if isinstance(summary, dict) and summary:
        rows = tuple((words(key), number(value)) for key, value in summary.items())
        tables.append(Table("Merge: the whole model", ("what", "value"), rows))
    tensors = [tensor for tensor in data.merge.get("tensors", []) if tensor.get("delta_rms")]
    tensors.sort(key=lambda tensor: (-max(tensor["delta_rms"]), tensor["name"]))
    if tensors:
        moved = tuple(
            (
                str(tensor["name"]),
                " / ".join(number(value) for value in tensor["delta_rms"]),
                " / ".join(number(value) for value in tensor["weights"]),
                number(tensor.get("erased_fraction")),
            )
            for tensor in tensors[:6]
        )
        header = ("tensor", "root mean square of the change", "weights", "erased")
        tables.append(Table("Merge: the tensors that moved most", header, moved, "Experts in the order given above."))
    return [replace(table, link=data.links["merge"]) for table in tables]


def _sources(data: ReportData) -> Table:
    stage_of = {"sft": "sft", "memory": "memory_rl"}
    entries = (
        *((f"scores of {model}", f"evaluate@{model}", f"evaluate_{model}/scores.json") for model in MODELS),
        *((f"answers of {model}", f"evaluate@{model}", f"evaluate_{model}/predictions.jsonl") for model in MODELS),
        *((f"training of {stage}", stage_of.get(stage, f"rl@{stage}"), f"metrics_{stage}") for stage in TRAINED),
        ("merge", "merge", "merge"),
        ("documents, drops by reason", "ingest", "ingest"),
        ("samples and contexts", "assemble", "assemble"),
        ("checks by the model", "verify", "verify"),
        ("splits", "stratify", "stratify"),
        ("pass@k bins", "stratify", "bins"),
    )
    return Table(
        "Where every number comes from",
        ("what", "stage", "file"),
        tuple((what, stage, data.links[key].removeprefix("../../")) for what, stage, key in entries),
        "Numbers and figures link to these files, as long as the report lies in outputs/report/data/. Times, costs and versions "
        "are not part of this report: they are in MLflow and in .state/report/.",
        row_links=tuple(data.links[key] for _, _, key in entries),
    )
