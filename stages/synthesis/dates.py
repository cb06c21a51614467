"""Dates as documents write them, as sortable text: "5 July 1962" -> "1962-07-05", "May 25, 1961", "12 March 1968", "1822"."""

from __future__ import annotations

import re
from datetime import date

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = "|".join(month.title() for month in _MONTHS)
DATE = re.compile(
    rf"(?P<day>[0-9]{{1,2}}) (?P<month>{_MONTH}) (?P<year>[12][0-9]{{3}})"
    rf"|(?P<month2>{_MONTH}) (?P<day2>[0-9]{{1,2}}), (?P<year2>[12][0-9]{{3}})"
    rf"|(?P<month3>{_MONTH}) (?P<year3>[12][0-9]{{3}})"
    rf"|(?P<year4>1[0-9]{{3}}|20[0-9]{{2}})"
)


def parse_date(text: str) -> str | None:
    """ISO text of a whole date text (year, year-month or year-month-day), or None. Texts of one length sort by time."""
    match = DATE.fullmatch(text.strip())
    if match is None:
        return None
    if match["year4"]:
        return match["year4"]
    if match["year3"]:
        return f"{match['year3']}-{_number(match['month3']):02d}"
    day, month, year = (
        (match["day"] or match["day2"]),
        (match["month"] or match["month2"]),
        (match["year"] or match["year2"]),
    )
    try:
        return date(int(year), _number(month), int(day)).isoformat()
    except ValueError:
        return None  # 31 February


def _number(month: str) -> int:
    return _MONTHS.index(month.lower()) + 1
