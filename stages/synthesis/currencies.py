"""Currencies as documents mark them: signs, signs with a country before them, and codes. One name each, never converted.

"$", "US$" and "USD" are dollars; "A$" and "C$" are other currencies. A mark that is not known here ("R$") stands for itself,
so that what it marks is never taken for dollars.
"""

from __future__ import annotations

import re

CURRENCIES = {
    "$": "dollars",
    "US$": "dollars",
    "USD": "dollars",
    "€": "euros",
    "EUR": "euros",
    "£": "pounds",
    "GBP": "pounds",
    "¥": "yen",
    "JP¥": "yen",
    "JPY": "yen",
    "CN¥": "yuan",
    "CNY": "yuan",
    "RMB": "yuan",
    "A$": "Australian dollars",
    "AU$": "Australian dollars",
    "AUD": "Australian dollars",
    "C$": "Canadian dollars",
    "CA$": "Canadian dollars",
    "CAD": "Canadian dollars",
    "HK$": "Hong Kong dollars",
    "HKD": "Hong Kong dollars",
    "NZ$": "New Zealand dollars",
    "NZD": "New Zealand dollars",
    "S$": "Singapore dollars",
    "SGD": "Singapore dollars",
}
MONEY = frozenset(CURRENCIES.values())
CODES = frozenset(mark for mark in CURRENCIES if mark.isalpha())

# What may stand before a number; the longest first, so that "US$" is not an "S$".
MARK_PATTERN = "|".join(re.escape(mark) for mark in sorted(CURRENCIES, key=lambda mark: (-len(mark), mark)))
_MARK = re.compile(rf"(?<![A-Za-z])[A-Z]{{0,3}}\$|[€£]|(?:CN|JP)?¥|\b(?:{'|'.join(sorted(CODES))})\b")


def currencies_in(text: str) -> list[str]:
    """The currencies that a text marks, each once, in order.

    >>> currencies_in("US$ 5 and EUR 3"), currencies_in("R$ 4"), currencies_in("12 km")
    (['dollars', 'euros'], ['R$'], [])
    """
    return list(dict.fromkeys(CURRENCIES.get(mark, mark) for mark in _MARK.findall(text)))
