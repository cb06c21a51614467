"""Figures of the data card as SVG files. Equal numbers give equal bytes: fixed hash salt, no date, no version."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_BLUE, _GREY, _INK = "#1f5f8b", "#c9ced6", "#3a4553"
_COLOURS = ("#1f5f8b", "#b5651d", "#4d7c4a", "#8a4f7d", "#7a7f2a")
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "longfuse",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
}
_MAX_BARS = 24


def histogram(values: Sequence[float], label: str, bins: int = 24) -> str:
    """How often which size occurs."""
    low, high = min(values), max(values)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    with mpl.rc_context(_STYLE):
        figure, axes = _panel(3.0)
        axes.grid(axis="y")
        axes.bar([low + (index + 0.5) * width for index in range(bins)], counts, width=0.92 * width, color=_BLUE)
        axes.set_xlabel(label)
        axes.set_ylabel("samples")
        return _svg(figure)


def columns(shares: Mapping[str, float], label: str, band: tuple[float, float] | None = None) -> str:
    """One column per name, in percent; `band`: the limits that hold for each."""
    with mpl.rc_context(_STYLE):
        figure, axes = _panel(3.0)
        axes.grid(axis="y")
        axes.bar(range(len(shares)), [100 * share for share in shares.values()], color=_BLUE, width=0.8)
        for limit in band or ():
            axes.axhline(100 * limit, color=_COLOURS[1], linewidth=1.0, linestyle="--")
        axes.set_xticks(range(len(shares)), list(shares), rotation=40, ha="right", rotation_mode="anchor")
        axes.set_ylabel(label)
        return _svg(figure)


def bars(counts: Mapping[str, int], label: str) -> str:
    """One bar per name, the longest above; the smallest beyond two dozen are summed up."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > _MAX_BARS:
        rest = ordered[_MAX_BARS - 1 :]
        ordered = [*ordered[: _MAX_BARS - 1], (f"{len(rest)} others", sum(count for _, count in rest))]
    with mpl.rc_context(_STYLE):
        figure, axes = _panel(0.9 + 0.22 * len(ordered))
        axes.grid(axis="x")
        axes.barh(range(len(ordered)), [count for _, count in ordered], color=_BLUE, height=0.7)
        axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        return _svg(figure)


def stacked(groups: Mapping[str, Mapping[str, int]], label: str) -> str:
    """One bar per outer name, parted by the inner names."""
    parts = list(dict.fromkeys(name for group in groups.values() for name in group))
    with mpl.rc_context(_STYLE):
        figure, axes = _panel(1.2 + 0.3 * len(groups))
        axes.grid(axis="x")
        lefts = [0] * len(groups)
        for part, colour in zip(parts, _COLOURS * len(parts), strict=False):
            sizes = [group.get(part, 0) for group in groups.values()]
            axes.barh(range(len(groups)), sizes, left=lefts, color=colour, height=0.7, label=part)
            lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
        axes.set_yticks(range(len(groups)), list(groups))
        axes.invert_yaxis()
        axes.set_xlabel(label)
        figure.legend(loc="outside lower center", ncols=min(4, len(parts)), frameon=False, fontsize=8.0)
        return _svg(figure)


def _panel(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", file.getvalue(), flags=re.DOTALL)
    return re.sub(r"[ \t]+\n", "\n", text)
