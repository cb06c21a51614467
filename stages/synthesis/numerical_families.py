"""The grammar of numerical questions: every query family by name.

A family draws figures that can be compared, writes a sentence and an SQL expression over the corpus table, and says unit and
rounding (Draft). `lookup` and `table_cell` read one figure; all others compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from stages.synthesis.numerical_cells import CELL_FAMILIES, lookups, table_cells
from stages.synthesis.numerical_compare import COMPARE_FAMILIES
from stages.synthesis.numerical_cross import CROSS_FAMILIES
from stages.synthesis.numerical_draft import Draft
from stages.synthesis.numerical_joins import JOIN_FAMILIES
from stages.synthesis.numerical_panel import PANEL_FAMILIES
from stages.synthesis.numerical_panel_family import panel_family
from stages.synthesis.numerical_pools import Pools
from stages.synthesis.numerical_series import SERIES_FAMILIES

CHEAP_FAMILIES = ("lookup", "table_cell")

FAMILIES: dict[str, Callable[[Pools, Random], Iterator[Draft]]] = {
    "lookup": lookups,
    "table_cell": table_cells,
    **{name: panel_family(family) for name, family in {**PANEL_FAMILIES, **COMPARE_FAMILIES}.items()},
    **JOIN_FAMILIES,
    **SERIES_FAMILIES,
    **CROSS_FAMILIES,
    **CELL_FAMILIES,
}
