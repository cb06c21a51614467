"""The report as Markdown. Plain text is escaped, what models and documents wrote stands in code spans."""

from __future__ import annotations

from collections.abc import Iterator

from stages.report.content import Report
from stages.report.examples import Example
from stages.report.render_html import short_path
from stages.report.tables import Table, words
from stages.report.untrusted import markdown_cell, markdown_code


def render_markdown(report: Report) -> str:
    """The whole report; pictures are in the HTML only, each named by what it shows."""
    return "\n\n".join(block.rstrip() for block in _blocks(report)) + "\n"


def _blocks(report: Report) -> Iterator[str]:
    yield f"# {markdown_cell(report.title)}"
    yield "\n".join(f"- {markdown_cell(sentence)}" for sentence in report.headline)
    yield _files(report.headline_links)
    yield "## Scores"
    for table in (report.path, *report.paper, *report.score_tables):
        yield from _table(table)
    yield "## Failures"
    yield from _table(report.failure_kinds)
    for example in report.failures:
        yield _example(example)
    yield "## Training"
    yield from _table(report.training)
    pictures = [
        markdown_cell(picture.alt)
        for picture in (report.path_picture, *report.score_pictures, *report.answer_pictures, *report.training_pictures)
    ]
    yield "Figures, in `report.html`:\n\n" + "\n".join(f"- {alt}" for alt in pictures)
    yield "## Data"
    for table in report.data:
        yield from _table(table)
    yield "## Merge"
    for table in report.merge:
        yield from _table(table)
    yield "## Examples"
    if not report.examples:
        yield "None were asked for, or no held-out question was answered."
    for example in report.examples:
        yield _example(example)
    yield "## Departures from the paper"
    yield "\n".join(f"- **{markdown_cell(part)}**: {markdown_cell(text)}" for part, text in report.departures)
    yield "## Sources"
    yield from _table(report.sources)


def _table(table: Table) -> Iterator[str]:
    yield f"### {markdown_cell(table.title)}"
    lines = [_row(table.header), "|" + "---|" * len(table.header), *(_row(row) for row in table.rows)]
    yield "\n".join(lines)
    if table.note:
        yield markdown_cell(table.note)
    if table.links:
        yield _files(table.links)


def _files(links: tuple[str, ...]) -> str:
    """Links to the files that numbers came from."""
    return "From: " + ", ".join(f"[{markdown_cell(short_path(link))}](<{link}>)" for link in links)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"


def _example(example: Example) -> str:
    lines = [
        f"**{markdown_cell(words(example.task_type))}** {markdown_code(example.sample_id)}"
        + (f" {markdown_cell(example.kind)}, line {example.line} of the file" if example.kind else ""),
        "",
        f"- question: {markdown_code(example.question)}",
        f"- gold: {markdown_code(example.gold)}",
    ]
    for answer in example.answers:
        lines.append(f"- {markdown_cell(answer.model)}, score {answer.score:.2f}: {markdown_code(answer.text)}")
    return "\n".join(lines)
