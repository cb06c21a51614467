"""Figures over a whole corpus (CorpusQA's kind): reports of many companies, a question about all those of one sector.

    ## Annual report of Amber Anchor Holdings
    Sector: shipping
    | item | 2021 | 2022 | 2023 |
    | net sales (million dollars) | 1,204 | 1,377 | 990 |
    ...
    asked: what were the total net sales in 2022 of all companies of the sector shipping?

Companies, sectors and figures are drawn first and the answer is computed from them, so it is right by construction; every
report of the sector is needed, wherever it stands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from stages.common.generators.ruler import random_key
from stages.common.generators.streamed import Passage

YEARS = (2021, 2022, 2023)
ITEMS = {  # item -> its unit, its range
    "net sales": ("million dollars", 120, 9_800),
    "operating costs": ("million dollars", 90, 7_900),
    "employees": ("persons", 40, 24_000),
}
_SECTORS = (
    "shipping", "mining", "forestry", "textiles", "printing", "brewing", "insurance", "railways", "fisheries", "ceramics",
    "aviation", "software", "pharmacy", "tourism", "glass", "paper", "dairy", "telephony", "machinery", "banking",
)  # fmt: skip
_SUFFIXES = ("Holdings", "Works", "Group", "Partners", "Company", "Union")
TOKENS_PER_REPORT = 16_000
_MIN_REPORTS, _MAX_REPORTS = 12, 250
_COMPANIES_PER_SECTOR = 10


@dataclass(frozen=True)
class Company:
    """A report. figures: item -> one integer per year."""

    name: str
    sector: str
    figures: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class CorpusTask:
    """Reports to hide, what is asked, its answer; rows: name and value(s) of every company that counts."""

    passages: tuple[Passage, ...]
    question: str
    answer: str
    is_name: bool
    operation: str
    sector: str
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    depth: float
    names: tuple[str, ...]


Rows = Sequence[tuple[str, tuple[int, ...]]]  # of the sector's companies: name, the item's values by year


def corpus_task(tokens: int, chance: random.Random, tokens_per_report: int = TOKENS_PER_REPORT) -> CorpusTask:
    """Reports for a text of so many tokens (one in `tokens_per_report`, 12 to 250) and a question about one sector."""
    companies = _companies(min(_MAX_REPORTS, max(_MIN_REPORTS, tokens // tokens_per_report)), chance)
    passages = [
        Passage((index + chance.random()) / len(companies), _report(company)) for index, company in enumerate(companies)
    ]
    sector = chance.choice(sorted({company.sector for company in companies}))
    item = chance.choice(sorted(ITEMS))
    rows = [(company.name, company.figures[item]) for company in companies if company.sector == sector]
    operation, question, answer = _ask(sector, item, rows, chance)
    first = next(index for index, company in enumerate(companies) if company.sector == sector)
    return CorpusTask(
        passages=tuple(passages),
        question=question,
        answer=answer,
        is_name=operation == "largest",
        operation=operation,
        sector=sector,
        rows=tuple(rows),
        depth=passages[first].depth,
        names=tuple(company.name for company in companies),
    )


def _companies(number: int, chance: random.Random) -> list[Company]:
    sectors = chance.sample(_SECTORS, k=max(3, min(len(_SECTORS), number // _COMPANIES_PER_SECTOR)))
    names: list[str] = []
    while len(names) < number:
        name = f"{random_key(chance).replace('-', ' ').title()} {chance.choice(_SUFFIXES)}"
        if name not in names:
            names.append(name)
    order = [sectors[index % len(sectors)] for index in range(number)]  # no sector is empty
    chance.shuffle(order)
    return [
        Company(
            name,
            sector,
            {item: tuple(chance.randint(low, high) for _ in YEARS) for item, (_, low, high) in ITEMS.items()},
        )
        for name, sector in zip(names, order, strict=True)
    ]


def _report(company: Company) -> str:
    lines = [f"## Annual report of {company.name}", "", f"Sector: {company.sector}", ""]
    lines += ["| item | " + " | ".join(map(str, YEARS)) + " |", "|---" * (1 + len(YEARS)) + "|"]
    for item, values in company.figures.items():
        lines.append(f"| {item} ({ITEMS[item][0]}) | " + " | ".join(f"{value:,}" for value in values) + " |")
    return "\n".join(lines)


def _ask(sector: str, item: str, rows: Rows, chance: random.Random) -> tuple[str, str, str]:
    """Operation, question, answer."""
    index = chance.randrange(len(YEARS))
    year, unit = YEARS[index], ITEMS[item][0]
    values = [figures[index] for _, figures in rows]
    everyone = f"all companies of the sector {sector} whose annual reports are in the documents"
    limit = chance.choice(sorted(values))  # so that about half of them are above it
    rising = sum(figures[-1] > figures[0] for _, figures in rows)
    mean = Fraction(sum(values), len(values))
    forms: dict[str, Callable[[], tuple[str, str]]] = {
        "total": lambda: (f"What is the sum of {item} ({unit}) in {year} over {everyone}?", str(sum(values))),
        "average": lambda: (
            f"What is the average of {item} ({unit}) in {year} over {everyone}? Round to one decimal place.",
            _tenths(mean),
        ),
        "spread": lambda: (
            f"By how many {unit} does the highest value of {item} in {year} exceed the lowest one among {everyone}?",
            str(max(values) - min(values)),
        ),
        "above": lambda: (
            f"How many of {everyone} had {item} ({unit}) of more than {limit:,} in {year}?",
            str(sum(value > limit for value in values)),
        ),
        "rising": lambda: (
            f"For how many of {everyone} was the value of {item} in {YEARS[-1]} higher than in {YEARS[0]}?",
            str(rising),
        ),
    }
    if values.count(max(values)) == 1:
        best = max(rows, key=lambda row: row[1][index])[0]
        forms["largest"] = lambda: (f"Which of {everyone} had the highest value of {item} in {year}?", best)
    operation = chance.choice(sorted(forms))
    return (operation, *forms[operation]())


def _tenths(value: Fraction) -> str:
    """One decimal, halves rounded up, as people do (Python rounds them to even)."""
    tenths = int(10 * value + Fraction(1, 2))
    return f"{tenths // 10}.{tenths % 10}"
