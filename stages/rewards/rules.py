"""Rules that compare a prediction with the gold answer: one function per kind of answer, each in [0, 1].

Every rule is strict where a reward could be gamed: an empty prediction scores 0, and a prediction that offers several
different letters or numbers is not searched for the right one. Departures from the sources:

- numbers: DocMath's scorer forgives sign and powers of ten; as a reward that is hackable, so here both count;
- letters: LongBench v2 takes the first match; here statements that disagree score 0;
- sequences: MRCR v1 knows the random prefix; where it is not given it is read off the gold answer.
"""

from __future__ import annotations

import difflib
import math
import re
import string
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

# --- text ------------------------------------------------------------------------------------------------------------

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """Lower-case, ASCII punctuation and the words a/an/the deleted, blanks collapsed (SQuAD's normalisation)."""
    text = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def cover_exact_match(prediction: str, gold: str) -> float:
    """1 if the normalised gold answer is a substring of the normalised prediction (the paper's rule, strict form).

    Substring, not word match, as in the paper: gold "no" is covered by "notable". Generators must therefore not make
    text questions with such golds. 0 if either side is empty after normalising.
    """
    prediction, gold = normalise(prediction), normalise(gold)
    return float(bool(gold) and bool(prediction) and gold in prediction)


# --- letters ---------------------------------------------------------------------------------------------------------

# "A" before a lower-case word is the article, unless a reason follows.
_LETTER = r"[\(\[]?(?P<letter>[B-H](?!\w)|A(?!\w|\s+(?!because\b|since\b)[a-z]))[\)\]]?"
_STATED = re.compile(
    rf"(?i:\b(?:answer|option|choice)\b(?:\s+(?:is|should be|would be))?\s*:?\s*(?:option\s+)?){_LETTER}"
)
_LEADING = re.compile(r"(?:\(([A-H])\)|\[([A-H])\]|([A-H])(?:[.):]|\s*$|\s*\n))")
# A second letter right behind the first: "A or B", "A, B", "(A) (B)". "(B) A dog" goes on with a word instead.
_HEDGE = re.compile(
    r"[\)\]]?\s*(?:,|/|&|\bor\b|\band\b)\s*[\(\[]?[A-H](?!\w)"
    r"|[\)\]]?\s+[\(\[]?[A-H][\)\]]?(?=\s*(?:$|[.,\)\]]|[\(\[]?[A-H](?!\w)))"
)
# Option markers: at the start of a line, and anywhere.
_LINE_OPTION = re.compile(r"^\s*[\(\[]?([A-H])(?:[.):\]]|[ \t]*$)", re.MULTILINE)
_ANY_OPTION = re.compile(r"(?<!\w)[\(\[]?([A-H])[.):\]]")
_MAX_LETTER_CHARACTERS = 4_000  # a statement is looked for this far from the end, a leading letter from the start


def _lists_options(text: str) -> bool:
    """True if the text goes through options: two at the start of lines, or three anywhere.

    Two within a line may be an initial ("B. George A. Smith") or a reason ("(B). (A) is wrong"); only the first is read.
    """
    return len(set(_LINE_OPTION.findall(text))) > 1 or len(set(_ANY_OPTION.findall(text))) > 2


def _stated_letter(prediction: str) -> str | None:
    """The one letter that "the answer is X" names; None if nothing or several are named."""
    letters = set()
    for match in _STATED.finditer(prediction):
        if _HEDGE.match(prediction, match.end("letter")) or _lists_options(prediction[match.start("letter") :]):
            return None
        letters.add(match.group("letter"))
    return letters.pop() if len(letters) == 1 else None


def _leading_letter(prediction: str) -> str | None:
    """The letter that the prediction begins with, unless it lists options."""
    if re.fullmatch(r"[\(\[]?[a-hA-H][\)\].]*", prediction):
        return prediction.strip("()[].").upper()
    match = _LEADING.match(prediction)
    if match is None or _lists_options(prediction) or _HEDGE.match(prediction, match.end()):
        return None
    return match.group(1) or match.group(2) or match.group(3)


def multiple_choice(prediction: str, gold: str) -> float:
    """1 if the prediction names the gold letter and no other.

    Read as an answer: "B", "(B)", "b", "B. some text", "Option B", "The correct answer is (B)". A statement wins over a
    leading letter. Lists of options, "A or B" and statements that disagree score 0.
    """
    prediction = prediction.replace("*", "").strip()
    gold = gold.strip().strip("()[].").upper()
    if not prediction or not re.fullmatch(r"[A-H]", gold):
        return 0.0
    end, start = prediction[-_MAX_LETTER_CHARACTERS:], prediction[:_MAX_LETTER_CHARACTERS]
    letter = _stated_letter(end) if _STATED.search(end) else _leading_letter(start)
    return float(letter == gold)


# --- numbers ---------------------------------------------------------------------------------------------------------

_SCALES = {
    "thousand": Decimal(10**3), "million": Decimal(10**6), "mn": Decimal(10**6),
    "billion": Decimal(10**9), "bn": Decimal(10**9), "trillion": Decimal(10**12),
}  # fmt: skip
# A number stands alone: "Q3", "10-K", "1.2.3" and "1,23" hold none. A minus is a sign only where no word or number
# ends before it.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])[-−]|\b(?:minus|negative)\s+)?(?:[$€£¥]\s?(?P<inner>[-−])?)?"
    r"(?<![\w.])(?<!\d,)(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<exponent>[eE][+-]?\d{1,2}(?!\w))?"
    r"(?!\d|[.,]\d|-(?!thousand|million|billion|trillion)[A-Za-z])(?:[\s-]?(?P<scale>thousand|million|mn|billion|bn|trillion)s?\b)?",
    re.IGNORECASE,
)
_NUMBER_WORDS = {
    word: Decimal(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
}
_MAX_DIGITS = 40
_MAX_NUMBER_CHARACTERS = 4_000  # a final answer longer than this is no number
_FLOAT_TOLERANCE = 1e-9  # rounding of binary fractions, nothing more


class Number(NamedTuple):
    """A number as written: `value`, and the scale word behind it (None if there is none)."""

    value: Decimal
    scale: Decimal | None


def numbers_in(text: str) -> set[Number]:
    """The different numbers of a text: thousands commas, currency signs and % removed, scale words kept apart.

    A digit inside a word ("Q3", "10-K") is no number. A hyphen between digits is no sign.
    """
    text = text[:_MAX_NUMBER_CHARACTERS]
    found = set()
    for match in _NUMBER.finditer(text):
        digits = match["digits"].replace(",", "")
        if len(digits) > _MAX_DIGITS:
            continue
        value = Decimal(digits + (match["exponent"] or ""))
        if match["inner"] or match["sign"]:
            value = -value
        scale = _SCALES[match["scale"].lower()] if match["scale"] else None
        found.add(Number(value.normalize(), scale))
    if not found and (word := text.strip().strip(".").lower()) in _NUMBER_WORDS:
        found.add(Number(_NUMBER_WORDS[word].normalize(), None))
    return found


def _equal(left: Decimal, right: Decimal) -> bool:
    """Whole numbers exactly, others up to the rounding of floats; the sign counts."""
    if left == right:
        return True
    if left == left.to_integral_value() and right == right.to_integral_value():
        return False
    return math.isclose(float(left), float(right), rel_tol=_FLOAT_TOLERANCE)


def same_number(given: Number, want: Number) -> bool:
    """Equal with the scale words applied, or, where at most one side names a scale, as written."""
    scaled = _equal(given.value * (given.scale or 1), want.value * (want.scale or 1))
    return scaled or ((given.scale is None or want.scale is None) and _equal(given.value, want.value))


def numeric_match(
    prediction: str, gold: str, named_in_question: frozenset[Number] | set[Number] = frozenset()
) -> float:
    """1 if the prediction's one number equals the gold number: sign and magnitude count.

    "$1,234.50", "12 %" and "5 km" are read as 1234.5, 12 and 5. Of "3 + 4 = 7" only what follows the last "=" counts.
    Several different numbers score 0: a list of guesses earns nothing. Scale words: "5 million" equals "5000000", and
    also "5" where only one side names a scale (a table "in millions"); "5 million" never equals "5 billion".
    0 if either side holds no number, or the gold holds several.

    named_in_question: numbers that are no answers where another one is given ("sales in 2023 were 12": 12).
    """
    wanted = numbers_in(gold)
    given = numbers_in(re.split(r"[=≈]", prediction)[-1])
    if len(given) > 1:
        given = given - named_in_question
    if len(wanted) != 1 or len(given) != 1:
        return 0.0
    return float(same_number(given.pop(), wanted.pop()))


# --- sequences -------------------------------------------------------------------------------------------------------

_PREFIX = re.compile(r"[A-Za-z0-9]{1,12}")
_MAX_GOLD_CHARACTERS = 20_000


def sequence_match_ratio(prediction: str, gold: str, prefix: str | None = None) -> float:
    """MRCR v1: 0 unless the prediction starts with the random string; else difflib's ratio of what follows it.

    `prefix` is that string (a sample's proof holds it); None: the gold's leading letters and digits, at most 12.
    Argument order (response, gold) and autojunk are the benchmark's; nothing is stripped. 0 for an empty gold or
    prediction. Long inputs are compared up to a bound, the rest counts as not matching, so time stays bounded and the
    score is never raised by it.
    """
    if not prediction or not gold:
        return 0.0
    if prefix is None:
        match = _PREFIX.match(gold)
        prefix = match.group(0) if match else ""
    if not prediction.startswith(prefix):
        return 0.0
    prediction, gold = prediction.removeprefix(prefix), gold.removeprefix(prefix)
    total = len(prediction) + len(gold)
    if total == 0:
        return 1.0
    gold = gold[:_MAX_GOLD_CHARACTERS]
    matcher = difflib.SequenceMatcher(None, prediction[: 2 * len(gold) + 1_000], gold)
    return 2.0 * sum(block.size for block in matcher.get_matching_blocks()) / total


# --- sets ------------------------------------------------------------------------------------------------------------

_BULLET = re.compile(r"^\s*(?:[-•]|\d{1,3}[.)])\s+")
_EMPTY_SET = {"", "none", "empty", "nothing"}


def _items(text: str, commas: bool) -> set[str]:
    """Items separated by semicolons or new lines, else by commas if `commas`; normalised."""
    text = text.strip().strip("[]{}")
    separator = r"[;\n]" if ";" in text or "\n" in text.strip() or not commas else ","
    return {item for part in re.split(separator, text) if (item := normalise(_BULLET.sub("", part)))}


def set_f1(prediction: str, gold: Sequence[str]) -> float:
    """F1 of the prediction's items against the gold items (as GraphWalks scores lists).

    Items stand between semicolons, on lines, or, where no gold item holds a comma, between commas. An empty gold set
    must be answered by "[]" or "none": saying nothing scores 0 (GraphWalks gives 1).
    """
    wanted = {item for entry in gold if (item := normalise(entry))}
    given = _items(prediction, commas=not any("," in entry for entry in gold))
    if not wanted:
        return float(bool(prediction.strip()) and given <= _EMPTY_SET)
    return 2.0 * len(wanted & given) / (len(wanted) + len(given))
