"""The answers of every query family in plain Python, from the figures and what the family chose: no SQL, exact fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from statistics import median


def values(draft):
    return [Fraction(figure.value) for figure in draft.figures]


def halves(draft):
    """First and second measure, or earlier columns and later ones."""
    found = values(draft)
    middle = len(found) // 2
    return found[:middle], found[middle:]


def pairs(draft):
    found = values(draft)
    return list(zip(found[::2], found[1::2], strict=True))


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def passes(value, sign, bound):
    return value > Fraction(bound) if sign == ">" else value < Fraction(bound)


def nth(draft):
    first, second = halves(draft)
    order = sorted(range(len(first)), key=lambda i: first[i], reverse=draft.parameters["descending"])
    return second[order[draft.parameters.get("n", 1) - 1]]


def rate(pair):
    return (pair[1] - pair[0]) * 100 / pair[0]


def rises(numbers):
    best = run = 0
    for a, b in itertools.pairwise(numbers):
        run = run + 1 if b > a else 0
        best = max(best, run)
    return best


def steps(draft):
    found = values(draft)
    return [abs(b - a) for a, b in itertools.pairwise(found)]


def year_at(draft, index):
    return draft.figures[index].year


def argmax(numbers):
    return max(range(len(numbers)), key=lambda i: numbers[i])


def argmin(numbers):
    return min(range(len(numbers)), key=lambda i: numbers[i])


def _filtered(draft):
    p = draft.parameters
    return [v for v in values(draft) if passes(v, p["sign"], p["bound"])]


def _where(draft):
    first, second = halves(draft)
    p = draft.parameters
    return [b for a, b in zip(first, second, strict=True) if passes(a, p["sign"], p["bound"])]


def _percent_larger(draft):
    high, low = values(draft)
    return (high - low) * 100 / (high if draft.parameters["down"] else low)


ORACLE = {
    "lookup": lambda d: values(d)[0],
    "table_cell": lambda d: values(d)[0],
    "sum": lambda d: sum(values(d)),
    "mean": lambda d: mean(values(d)),
    "median": lambda d: median(values(d)),
    "spread": lambda d: max(values(d)) - min(values(d)),
    "largest": lambda d: max(values(d)),
    "smallest": lambda d: min(values(d)),
    "nth_largest": lambda d: sorted(values(d), reverse=d.parameters["descending"])[d.parameters["n"] - 1],
    "sum_of_top": lambda d: sum(sorted(values(d))[-d.parameters["n"] :]),
    "count_above": lambda d: len(_filtered(d)),
    "count_between": lambda d: sum(
        Fraction(d.parameters["bounds"][0]) <= v <= Fraction(d.parameters["bounds"][1]) for v in values(d)
    ),
    "sum_above": lambda d: sum(_filtered(d)),
    "mean_above": lambda d: mean(_filtered(d)),
    "difference": lambda d: values(d)[0] - values(d)[1],
    "percentage_points": lambda d: values(d)[0] - values(d)[1],
    "ratio": lambda d: values(d)[0] / values(d)[1],
    "percent_larger": _percent_larger,
    "share_of_total": lambda d: values(d)[0] * 100 / sum(values(d)),
    "gap_to_mean": lambda d: abs(values(d)[0] - mean(values(d))),
    "rank_position": lambda d: 1 + sum(v > values(d)[0] for v in values(d)),
    "other_of_largest": nth,
    "other_of_nth": nth,
    "sum_where": lambda d: sum(_where(d)),
    "count_where": lambda d: sum(
        passes(a, d.parameters["signs"][0], d.parameters["bounds"][0])
        and passes(b, d.parameters["signs"][1], d.parameters["bounds"][1])
        for a, b in zip(*halves(d), strict=True)
    ),
    "part_of": lambda d: values(d)[0] * 100 / values(d)[1],
    "difference_of": lambda d: values(d)[0] - values(d)[1],
    "largest_part": lambda d: max(a * 100 / b for a, b in zip(*halves(d), strict=True)),
    "weighted_mean": lambda d: sum(a * b for a, b in zip(*halves(d), strict=True)) / sum(halves(d)[1]),
    "change": lambda d: values(d)[1] - values(d)[0],
    "growth": lambda d: rate(values(d)),
    "times_as_large": lambda d: values(d)[1] / values(d)[0],
    "compound_growth": lambda d: (Fraction(math.pow(values(d)[1] / values(d)[0], 1 / d.parameters["n"])) - 1) * 100,
    "series_mean": lambda d: mean(values(d)),
    "series_sum": lambda d: sum(values(d)),
    "peak_year": lambda d: year_at(d, argmax(values(d))),
    "trough_year": lambda d: year_at(d, argmin(values(d))),
    "largest_step": lambda d: max(steps(d)),
    "largest_step_year": lambda d: year_at(d, argmax(steps(d)) + 1),
    "first_year_above": lambda d: min(f.year for f in d.figures if Fraction(f.value) > Fraction(d.parameters["bound"])),
    "years_above": lambda d: sum(v > Fraction(d.parameters["bound"]) for v in values(d)),
    "moving_average": lambda d: mean(values(d)),
    "longest_rise": lambda d: rises(values(d)),
    "growth_gap": lambda d: rate(values(d)[:2]) - rate(values(d)[2:]),
    "combined_change": lambda d: sum(b - a for a, b in pairs(d)),
    "fastest_growth": lambda d: max(map(rate, pairs(d))),
    "rising_count": lambda d: sum(b > a if d.parameters["sign"] == ">" else b < a for a, b in pairs(d)),
    "years_ahead": lambda d: sum(a > b for a, b in pairs(d)),
    "rows_sum": lambda d: sum(values(d)),
    "row_difference": lambda d: values(d)[0] - values(d)[1],
    "row_share": lambda d: values(d)[0] * 100 / values(d)[1],
    "rows_above": lambda d: sum(v > Fraction(d.parameters["bound"]) for v in values(d)),
    "other_column": nth,
    "rising_rows": lambda d: sum(a > b for a, b in zip(*halves(d), strict=True)),
}


def oracle_answer(draft):
    """The answer as text, rounded half away from zero to the asked digits."""
    found = Fraction(ORACLE[draft.family](draft))
    if draft.decimals is None:
        assert found.denominator == 1
        return str(found.numerator)
    scaled = abs(found / Fraction(draft.factor)) * 10**draft.decimals
    digits = str(math.floor(scaled + Fraction(1, 2))).rjust(draft.decimals + 1, "0")
    cut = len(digits) - draft.decimals
    text = f"{digits[:cut]}.{digits[cut:]}".rstrip("0").rstrip(".") if draft.decimals else digits
    return f"-{text}" if found < 0 and text.strip("0.") else text
