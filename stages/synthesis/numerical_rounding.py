"""Rounding that leaves no doubt: half up, and refused on the edge."""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from stages.synthesis.quantities import plain

_EDGE = Decimal("0.000001")  # how near a result may come to a rounding edge, in units of the last digit


def round_clearly(value: Decimal, decimals: int, *, exact: bool) -> str | None:
    """Rounded half up, as text; None if the value is too near a rounding edge, or is not exact but should be."""
    unit = Decimal(1).scaleb(-decimals)
    rounded = value.quantize(unit, rounding=ROUND_HALF_UP)
    if exact:
        return plain(rounded) if abs(value - rounded) <= abs(value) * Decimal("1e-12") else None
    parts = value / unit
    fraction = parts - parts.to_integral_value(rounding=ROUND_FLOOR)
    return None if abs(fraction - Decimal("0.5")) < _EDGE else plain(rounded)
