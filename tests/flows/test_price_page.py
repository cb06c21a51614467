"""The prices in docs/ec2.md are those of the code."""

import pytest

from flows import price_page
from infra.ec2.catalog import PRICES_OF, InstanceType


def test_the_page_has_the_prices_of_the_table_and_their_day():
    text = price_page.PAGE.read_text(encoding="utf-8")
    assert price_page.with_prices(text) == text
    assert f"Prices of {PRICES_OF}" in text


def test_another_price_gives_another_page(monkeypatch):
    kind = InstanceType("p5.48xlarge", "P5", 192, 2048, "H100", 8, 80, 60.0, 30.0)
    monkeypatch.setitem(price_page.TYPES, kind.name, kind)
    page = price_page.with_prices(f"a\n{price_page.BEGIN}\nold\n{price_page.END}\nz\n")
    assert (page[:2], page[-3:]) == ("a\n", "\nz\n")
    assert "old" not in page
    assert "| p5.48xlarge | 8 x H100, 80 GB each | 192 | 60.00 | 30.00 | L-417A185B / L-C4BD4855 |" in page
    # Profile paper_4b: 49 h of the dearest candidate, 60 USD an hour on demand.
    row = next(line for line in page.splitlines() if line.startswith("| paper_4b |"))
    assert row.endswith("| H100:8 | 30.00 to 60.00 | 49 h | 2940.00 | 4000 |")


def test_a_page_without_marks_is_told():
    with pytest.raises(ValueError, match="lost its marks"):
        price_page.with_prices("nothing")
