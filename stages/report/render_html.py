"""The report as one HTML page: inline style and SVG, no script, nothing loaded from anywhere.

jinja2 escapes every value; only the SVGs, which figures.py makes and in which matplotlib escaped the labels, go in as they are. A content security policy
forbids scripts and requests besides.
"""

from __future__ import annotations

from jinja2 import Environment, StrictUndefined

from stages.report.content import Report
from stages.report.figures import Picture, with_own_ids
from stages.report.tables import words
from stages.report.template import TEMPLATE


def render_html(report: Report) -> str:
    """The whole report, UTF-8."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["words"] = words
    template = environment.from_string(TEMPLATE)
    path = _figures((report.path_picture,), first=1)
    scores = _figures(report.score_pictures, first=2)
    training = _figures(report.training_pictures, first=2 + len(scores))
    text = template.render(report=report, path_figures=path, training_figures=training, score_figures=scores)
    return text.rstrip() + "\n"


def _figures(pictures: tuple[Picture, ...], first: int) -> list[tuple[str, str, str]]:
    """(title, description, SVG) with ids of their own."""
    return [
        (picture.title, picture.alt, with_own_ids(picture.svg, number))
        for number, picture in enumerate(pictures, start=first)
    ]
