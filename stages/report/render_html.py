"""The report as one HTML page: inline style and SVG, no script, nothing loaded from anywhere.

jinja2 escapes every value; only the SVGs, which figures.py makes and in which matplotlib escaped the labels, go in as they are. A content security policy
forbids scripts and requests besides.
"""

from __future__ import annotations

from urllib.parse import unquote

from jinja2 import Environment, StrictUndefined

from stages.report.content import Report
from stages.report.figures import Picture, with_own_ids
from stages.report.tables import words
from stages.report.template import TEMPLATE


def render_html(report: Report) -> str:
    """The whole report, UTF-8."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["words"] = words
    environment.filters["short_path"] = short_path
    template = environment.from_string(TEMPLATE)
    groups: dict[str, list[tuple[Picture, str]]] = {}
    first = 1
    for name, pictures in (
        ("path_figures", (report.path_picture,)),
        ("score_figures", report.score_pictures),
        ("answer_figures", report.answer_pictures),
        ("training_figures", report.training_pictures),
    ):
        # Ids of their own, since all figures share one page.
        groups[name] = [(p, with_own_ids(p.svg, number)) for number, p in enumerate(pictures, start=first)]
        first += len(pictures)
    return template.render(report=report, **groups).rstrip() + "\n"


def short_path(link: str) -> str:
    """A file as shown to readers: `../../evaluate/base/data/scores.json` -> `evaluate/base/data/scores.json`."""
    return unquote(link).lstrip("./")
