"""Every query family on random documents: what its SQL gives is what plain Python computes."""

from __future__ import annotations

from itertools import islice

import pytest
from fact_corpus import document, write_documents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numerical_oracle import ORACLE, oracle_answer

from stages.common.errors import ConfigError
from stages.common.records import Category
from stages.common.seeds import rng
from stages.common.shards import SerialExecutor
from stages.synthesis.corpus_table import open_table, select_from
from stages.synthesis.numerical import computed_answer, family_weights
from stages.synthesis.numerical_corpus import read_figures
from stages.synthesis.numerical_families import FAMILIES
from stages.synthesis.numerical_pools import build_pools
from stages.synthesis.numerical_proofs import figure_row

YEARS = (2019, 2020, 2021, 2022, 2023)


def land(number, amounts):
    """A country with amounts in two magnitudes, a rate, and two series over five years."""
    coast, people, rate, exports, imports = amounts
    lines = ["## Geography", "### Coastline", f"{coast:,} km" if number % 2 else f"{coast * 1000:,} m"]
    lines += ["## People", "### Population", "#### total", f"{people:,}", "### Urbanization", f"{rate / 10}%"]
    lines += ["## Economy"]
    for name, series, word in (("Exports", exports, "million"), ("Imports", imports, "billion")):
        lines += [f"### {name}"]
        for year, value in zip(YEARS, series, strict=True):
            lines += [f"#### {name} {year}", f"${value:,} {word} ({year} est.)"]
    return document(f"Land{'ABCDEFGH'[number]}ia - The Factbook", "\n\n".join(lines))


def filing(number, amounts):
    """A company's report with a table over three years, counted in millions or thousands."""
    cost, other, sales = amounts[3], amounts[4], [a + b for a, b in zip(amounts[3], amounts[4], strict=True)]
    word, factor = ("millions", 1) if number % 2 else ("thousands", 1000)
    rows = [("Cost of products", cost), ("Research expense", other), ("Marketing expense", [a + 7 for a in other])]
    rows.append(("Total net sales", sales))
    body = [f"(In {word})", "", "| | 2021 | 2022 | 2023 |", "|---|---|---|---|"]
    body += [f"| {name} | {' | '.join(f'${value * factor:,}' for value in line[2:])} |" for name, line in rows]
    return document(f"Firm{'ABCDEFGH'[number]} Inc.", "\n".join(body), Category.PROFESSIONAL)


amount = st.integers(2, 90_000)
country_figures = st.tuples(
    amount,
    amount,
    st.integers(1, 900),
    st.lists(amount, min_size=5, max_size=5),
    st.lists(amount, min_size=5, max_size=5),
)


def families_of(tmp_path, drawn, seed, drafts=2):
    documents = [make(number, amounts) for number, amounts in enumerate(drawn) for make in (land, filing)]
    corpus = read_figures(write_documents(tmp_path, documents), SerialExecutor())
    pools = build_pools(corpus.figures, 6)
    connection = open_table([figure_row(figure) for figure in corpus.figures])
    try:
        for name, family in FAMILIES.items():
            for draft in islice(family(pools, rng(seed, name)), drafts):
                yield draft, computed_answer(draft, connection)
    finally:
        connection.close()


def agrees(tmp_path, drawn, seed, drafts):
    for draft, answer in families_of(tmp_path, drawn, seed, drafts):
        if answer is None:
            assert draft.rounded  # only the edge of a rounding may be refused
            continue
        assert answer == oracle_answer(draft), (draft.question, draft.sql)
        rows = [figure_row(figure) for figure in dict.fromkeys(draft.figures)]
        assert select_from(rows, draft.sql) == answer, (draft.question, draft.sql)


RANDOM = {"drawn": st.lists(country_figures, min_size=5, max_size=7), "seed": st.integers(0, 999)}
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=3, **QUIET)
@given(**RANDOM)
def test_sql_gives_what_plain_python_computes(tmp_path_factory, drawn, seed):
    agrees(tmp_path_factory.mktemp("documents"), drawn, seed, 1)


@pytest.mark.slow
@settings(max_examples=30, **QUIET)
@given(**RANDOM)
def test_sql_gives_what_plain_python_computes_on_many_tables(tmp_path_factory, drawn, seed):
    agrees(tmp_path_factory.mktemp("documents"), drawn, seed, 6)


def test_every_family_occurs_and_has_an_oracle(tmp_path):
    drawn = [
        (
            n * 137 + 60,
            n * 991 + 5000,
            n * 31 + 7,
            [n * 17 + y * y * 5 + 20 for y in range(5)],
            [n * 9 + y + 3 for y in range(5)],
        )
        for n in range(8)
    ]
    found = set()
    for seed in range(8):
        if found != set(FAMILIES):
            found |= {draft.family for draft, _ in families_of(tmp_path / str(seed), drawn, seed)}
    assert found == set(FAMILIES) == set(ORACLE)
    assert len(FAMILIES) >= 30


def test_questions_name_their_entities_unit_and_rounding(tmp_path):
    drawn = [
        (n * 137 + 60, n * 991 + 5000, n * 31 + 7, [n * 17 + y + 20] * 5, [n * 9 + y + 3] * 5)
        for n, y in enumerate(range(6))
    ]
    for draft, _ in families_of(tmp_path, drawn, 3):
        for figure in draft.figures:
            assert figure.entity in draft.question
        assert draft.rounded == ("rounded to" in draft.question)
        assert draft.question.endswith(("?", "."))
        if draft.family in ("sum", "largest", "median") and not draft.figures[0].is_cell:
            assert ", in " in draft.question or draft.figures[0].shown == ""


def test_weights_name_families_and_computed_is_the_rest():
    weights = family_weights({"lookup": 0.5, "growth": 0.2, "computed": 0.3})
    assert weights["lookup"] == 0.5
    assert weights["growth"] == 0.2
    assert sum(weights.values()) == pytest.approx(1.0)
    assert len({weight for name, weight in weights.items() if name not in ("lookup", "growth")}) == 1
    assert "table_cell" not in weights
    assert set(family_weights({"lookup": 1.0})) == {"lookup"}


@pytest.mark.parametrize("families", [{"lookups": 1.0}, {}, {"lookup": -1.0}, {"computed": 0.0}])
def test_weights_that_make_no_sense_are_told(families):
    with pytest.raises(ConfigError, match=r"synthesize\.numerical\.families"):
        family_weights(families)
