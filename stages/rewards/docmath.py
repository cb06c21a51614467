"""DocMath-Eval's comparison of numbers: for reporting that benchmark, never for a reward.

It forgives the sign, powers of ten, percent and thousand slips, and small numbers altogether: -5 is right for 5, 12 for
1200, 0.0001 for 0.0009. The original evaluates the answer as Python; here a parser of bounded arithmetic does. As there,
what cannot be read counts as 0.
"""

from __future__ import annotations

import ast
import math
import re
from fractions import Fraction

_WITHIN = Fraction(15, 10_000)
_SLIPS = ((50, 100), (500, 1_000), (50_000, 100_000))  # (at most 1/n of the other, times m comes close to it)
_MAX_CHARACTERS = 200
_MAX_POWER = 64
_MAX_BITS = 4_096
_MAX_DEPTH = 40

_DROPPED_WORDS = re.compile(r"\b(?:millions?|billions?|thousands?|US|USD|RMB)\b", re.IGNORECASE)
_DROPPED_SIGNS = str.maketrans("", "", "%$`°€£¥")
_UNIT_BEFORE = re.compile(r"^[A-Za-z]+\.?\s*(?=[-+(.\d])")
_UNIT_AFTER = re.compile(r"(?<=[\d).])\s*[A-Za-z][A-Za-z²³/ ]*\.?$")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def docmath_match(prediction: str, gold: str, decimals: int = 3) -> float:
    """1 if DocMath-Eval accepts the prediction. decimals: 3 in the original, 2 in QwenLong-L1's copy.

    Booleans must be equal; a boolean never equals a number.
    """
    given, wanted = docmath_value(prediction), docmath_value(gold)
    if isinstance(given, bool) or isinstance(wanted, bool):
        return float(given is wanted)
    larger, smaller = max(abs(given), abs(wanted)), min(abs(given), abs(wanted))
    if smaller and _is_power_of_ten(larger / smaller):
        return 1.0
    for share, factor in _SLIPS:
        if smaller <= larger / share and _close(smaller * factor, larger):
            return 1.0
    if _rounded_up(larger, decimals) == _rounded_up(smaller, decimals):
        return 1.0
    return float(_close(given, wanted))


def docmath_value(text: str) -> Fraction | bool:
    """The number or boolean that a text states; 0 if it states none."""
    value = stated_value(text)
    return Fraction(0) if value is None else value


def stated_value(text: str) -> Fraction | bool | None:
    """The number or boolean that a text states; None if it states none, which the original takes for 0."""
    text = _DROPPED_WORDS.sub(" ", text[-4_000:].replace("−", "-"))
    text = re.split(r"[=≈]", text)[-1].translate(_DROPPED_SIGNS)
    text = text.split(" or ")[0].strip().rstrip(".").strip()
    if text.lower() in ("true", "yes"):
        return True
    if text.lower() in ("false", "no"):
        return False
    text = _THOUSANDS.sub("", _UNIT_AFTER.sub("", _UNIT_BEFORE.sub("", text))).strip()
    try:
        return arithmetic(text)
    except (ValueError, ArithmeticError):
        return None


def arithmetic(text: str) -> Fraction:
    """The exact value of + - * / ** and brackets over decimal numbers. ValueError or ArithmeticError if it has none."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError("too long for a number")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError("no arithmetic") from None
    return _value(tree.body, text, 0)


def _value(node: ast.expr, text: str, depth: int) -> Fraction:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            written = ast.get_source_segment(text, node) or str(value)
            if re.search(r"e[+-]?\d{4}", written, re.IGNORECASE):
                raise ValueError("too large an exponent")
            return _bounded(Fraction(written.replace("_", "")))  # 0.1 is a tenth, not the nearest binary fraction
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text, depth + 1)
        case ast.BinOp(left=left, op=operator, right=right):
            return _bounded(_combined(operator, _value(left, text, depth + 1), _value(right, text, depth + 1)))
    raise ValueError("no arithmetic")


def _combined(operator: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if right.denominator == 1 and abs(right) <= _MAX_POWER:
            return left ** int(right)
    raise ValueError("no such operation")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise ValueError("too large a number")
    return value


def _is_power_of_ten(ratio: Fraction) -> bool:
    if ratio.denominator != 1:
        return False
    digits = str(ratio.numerator)
    return digits.rstrip("0") == "1"


def _rounded_up(value: Fraction, decimals: int) -> int:
    return math.ceil(value * 10**decimals)


def _close(value: Fraction, wanted: Fraction) -> bool:
    return abs(value - wanted) <= abs(wanted) * _WITHIN
