"""The reports of a made corpus read as a reader would, and questions about them answered again from the text."""

import re
from decimal import ROUND_HALF_UP, Decimal


def reports_in(text):
    """Company -> sector and figures."""
    found = {}
    for part in re.split(r"^## Annual report of ", text, flags=re.M)[1:]:
        rows = re.findall(r"^\| ([a-z ]+) \(.*?\) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", part, re.M)
        figures = {name: [int(value.replace(",", "")) for value in values] for name, *values in rows}
        found[part.split("\n")[0]] = (re.search(r"^Sector: (.*)$", part, re.M)[1], figures)
    return found


def figures_asked_about(asked, text):
    """(company, values by year) of every company of the sector, for the item that is asked about."""
    sector = re.search(r"companies of the sector (\w+) whose", asked)[1]
    item = re.search(r"net sales|operating costs|employees", asked)[0]
    return [(name, figures[item]) for name, (of, figures) in reports_in(text).items() if of == sector]


def answer_from(asked, text):
    """The right answer, computed from the text alone."""
    reports = figures_asked_about(asked, text)
    year = re.search(r"in (202\d)", asked)
    values = [figures[int(year[1]) - 2021] for _, figures in reports]
    if "sum of" in asked:
        return str(sum(values))
    if "average of" in asked:
        return str((Decimal(sum(values)) / len(values)).quantize(Decimal("0.1"), ROUND_HALF_UP))
    if "exceed" in asked:
        return str(max(values) - min(values))
    if "of more than" in asked:
        return str(sum(value > int(re.search(r"than ([\d,]+)", asked)[1].replace(",", "")) for value in values))
    if "higher than in" in asked:
        return str(sum(figures[2] > figures[0] for _, figures in reports))
    return max(zip(values, reports, strict=True))[1][0]
