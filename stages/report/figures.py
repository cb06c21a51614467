"""Figures as inline SVG: small panels, so that they are readable on a phone and line up in a grid on a desktop.

Deterministic: fixed hash salt, no date, no version, no random ids; text stays text in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.report.load import AGENT, MODELS, TRAINED, Metrics
from stages.report.scores import Interval
from stages.report.tables import words

BLUE, OCHRE, GREY, INK = "#1f5f8b", "#b5651d", "#c9ced6", "#3a4553"
TASK_COLOURS = ("#1f5f8b", "#b5651d", "#4d7c4a", "#8a4f7d", "#7a7f2a", "#5b6675")
SHADE = "#f1dfc8"
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "longfuse",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "text.color": INK,
}


@dataclass(frozen=True)
class Picture:
    """An inline SVG with a caption; `alt` says in words what it shows, `links` are the files that it was drawn from."""

    title: str
    svg: str
    alt: str
    links: tuple[str, ...] = ()


def score_panel(title: str, by_mode: Mapping[str, Mapping[str, Interval]]) -> Picture:
    """One benchmark: a dot and its 95 % interval per model and mode (full context filled, agent hollow)."""
    with mpl.rc_context(_STYLE):
        figure, axes = _panel()
        for mode, row in by_mode.items():
            agent = mode == AGENT
            shift = 0.14 if agent else -0.14 if len(by_mode) > 1 else 0.0
            present = [model for model in MODELS if model in row]
            x = [MODELS.index(model) + shift for model in present]
            y = [100 * row[model].mean for model in present]
            below = [100 * (row[model].mean - row[model].low) for model in present]
            above = [100 * (row[model].high - row[model].mean) for model in present]
            axes.errorbar(
                x,
                y,
                yerr=[below, above],
                fmt="s" if agent else "o",
                color=OCHRE if agent else BLUE,
                markerfacecolor="white" if agent else BLUE,
                elinewidth=1.0,
            )
        axes.set_xlim(-0.6, len(MODELS) - 0.4)
        axes.set_ylim(-4, 104)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_xticks(range(len(MODELS)), MODELS, rotation=40, ha="right", rotation_mode="anchor")
        spoken = "; ".join(
            f"{words(mode)}: " + ", ".join(f"{m} {100 * row[m].mean:.0f}" for m in MODELS if m in row)
            for mode, row in by_mode.items()
        )
        return Picture(title, _svg(figure), f"{title}, percent per model. {spoken}.")


def metric_panel(
    title: str, metrics: Mapping[str, Metrics], series: Mapping[str, str], shade: str = ""
) -> Picture | None:
    """Metrics over the updates of all stages in a row; None if no stage recorded any of them.

    series: metric key -> label. shade: a 0/1 metric whose ones are shaded, e.g. "aepo/masking".
    """
    stages = [s for s in TRAINED if any(key in step for key in series for step in metrics.get(s, []))]
    if not stages:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _panel()
        start, said = 0, []
        for index, stage in enumerate(stages):
            steps = metrics[stage]
            if index:
                axes.axvline(start - 0.5, color=GREY, linewidth=0.8)
            for position, step in enumerate(steps):
                if shade and step.get(shade, 0.0) > 0:
                    axes.axvspan(start + position - 0.5, start + position + 0.5, color=SHADE, linewidth=0)
            for colour, key in zip(TASK_COLOURS, series, strict=False):
                points = [(start + i, step[key]) for i, step in enumerate(steps) if key in step]
                label = series[key] if index == 0 or key not in _keys(metrics, stages[:index]) else None
                axes.plot(
                    [x for x, _ in points], [y for _, y in points], marker=_marker(points), color=colour, label=label
                )
                if points and len(series) == 1:
                    said.append(f"{stage} {points[0][1]:.3g} to {points[-1][1]:.3g}")
            axes.text(
                start + (len(steps) - 1) / 2,
                1.02,
                stage,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8.0,
            )
            start += len(steps)
        axes.set_xlim(-0.6, start - 0.4)
        axes.set_xlabel("update")
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if len(series) > 1:
            _legend(figure, axes)
        spoken = ", ".join(said) or ", ".join(series.values())
        return Picture(title, _svg(figure), f"{title} over the updates of the stages {', '.join(stages)}: {spoken}.")


def bin_panel(title: str, table: Mapping[str, Mapping[str, Interval]], label: str) -> Picture | None:
    """Accuracy by bin: table[bin][series], bins in order; None if there is nothing to draw.

    label: of the horizontal axis.
    """
    bins = list(table)
    series = list(dict.fromkeys(name for row in table.values() for name in row))
    if not series:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _panel()
        said = []
        for index, name in enumerate(series):
            present = [i for i, key in enumerate(bins) if name in table[key]]
            intervals = [table[bins[i]][name] for i in present]
            colour = TASK_COLOURS[index % len(TASK_COLOURS)]
            axes.errorbar(
                [i + 0.12 * (index - (len(series) - 1) / 2) for i in present],
                [100 * interval.mean for interval in intervals],
                yerr=[
                    [100 * (interval.mean - interval.low) for interval in intervals],
                    [100 * (interval.high - interval.mean) for interval in intervals],
                ],
                fmt="s--" if "agent" in name else "o-",
                color=colour,
                markerfacecolor="white" if "agent" in name else colour,
                elinewidth=0.8,
                label=name,
            )
            said.append(
                f"{name}: "
                + ", ".join(
                    f"{bins[i]} {100 * interval.mean:.0f} (n {interval.n})"
                    for i, interval in zip(present, intervals, strict=True)
                )
            )
        axes.set_xlim(-0.6, len(bins) - 0.4)
        axes.set_ylim(-4, 104)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_xticks(range(len(bins)), bins)
        axes.set_xlabel(label)
        _legend(figure, axes)
        return Picture(title, _svg(figure), f"{title}, percent. {'; '.join(said)}.")


def _keys(metrics: Mapping[str, Metrics], stages: Sequence[str]) -> set[str]:
    return {key for stage in stages for step in metrics[stage] for key in step}


def _marker(points: Sequence[object]) -> str:
    return "o" if len(points) <= 12 else ""


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.9, 2.5), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=8.0,
            handlelength=1.4,
            columnspacing=1.0,
        )


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element without declaration, metadata, fixed size or style that leaks into the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r"[ \t]+\n", "\n", text).strip()


def with_own_ids(svg: str, number: int) -> str:
    """Prefix every id, since several SVGs share one page."""
    prefix = f"f{number}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
