"""What the quality filters do not see, as docs/synthesis.md lists it: each example passes with the limits of params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stages.common.records import Table
from stages.ingest.quality import measure, prose_of
from stages.ingest.words import WordHasher, words_of

LIMITS = {"duplicate_lines", "repeated_ngrams", "boilerplate", "damaged"}


def refused(text: str, tables: tuple[Table, ...] = ()) -> set[str]:
    """The limits that a text exceeds."""
    ingest = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["ingest"]
    prose = prose_of(text, tables)
    quality = measure(text, prose, WordHasher()(words_of(prose)))
    return {name for name in LIMITS if getattr(quality, name) > ingest[f"max_{name}"]}


MENU = "Skip to main content\nWe use cookies\nSubscribe to our newsletter\nAll rights reserved.\n"
STORY = "The ship left the harbour in the morning and nobody on the pier knew when it would be back.\n"


@pytest.mark.parametrize(
    ("seen", "missed"),
    [
        # One pattern again and again with other words in it: no ten words in a row are the same.
        (
            STORY * 40,
            "".join(f"On day {n} the ship {n * 7} left the port of town {n * 3} with {n} men.\n" for n in range(60)),
        ),
        # Menus and notices in another language, or in other words.
        (
            MENU,
            "Zum Inhalt springen\nDiese Seite verwendet Cookies\nJetzt Newsletter abonnieren\nAlle Rechte vorbehalten\n",
        ),
        # UTF-8 read as Latin-1 is seen, Cyrillic of an older code page read as Latin-1 is not.
        ("MÃ¼nchen, KÃ¶ln, DÃ¼sseldorf, SaarbrÃ¼cken. " * 5, "Ìîñêâà - ñòîëèöà Ðîññèè, à Âîëãà - å¸ ðåêà. " + STORY),
        # Letters that a scan has confused, and blanks that a layout has lost.
        (
            "\ufffd\ufffd\ufffd " * 20,
            "Tlie sliip lcft tbe harhour ln tlie rnorning,andnobodyonthepierknew when 1t would b3 back.\n",
        ),
    ],
)
def test_the_like_of_what_is_seen_is_missed(seen, missed):
    assert refused(seen)
    assert not refused(missed)


def test_words_in_any_order_are_text():
    assert not refused(" ".join(sorted(set((STORY + MENU).split()), key=lambda word: word[::-1])))


def test_what_repeats_inside_a_table_is_not_looked_at():
    text = "| a | b |\n| --- | --- |\n" + "| the same row again | 1 |\n" * 50
    assert refused(text) == {"duplicate_lines", "repeated_ngrams"}
    table = Table(start=0, end=len(text), caption="", units="", header=["a", "b"], rows=50)
    assert not refused(text, (table,))
