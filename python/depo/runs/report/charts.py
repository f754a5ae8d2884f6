"""What all figures have in common.

Colours, axes, smoothing, and the way to a PNG with its words.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
"""Okabe and Ito's palette: distinct also to the colour-blind."""

GREY = "#777777"

THOUSANDS = "{x:,.0f}"
"""Tick format of large counts."""

_DPI = 110
_SMOOTHED_SHARE = 1 / 20
"""Which share of all steps one point of a smoothed curve averages."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as it is shown, or the reason why there is none.

    Attributes:
        name: File name without suffix.
        title: Heading.
        caption: One sentence on how to read the figure, or on why it is left out.
        png: The figure, the same bytes for the same records; None if it is left out.
    """

    name: str
    title: str
    caption: str
    png: bytes | None


def render(name: str, title: str, reading: str, drawn: Figure | str) -> Chart:
    """Return the chart of a figure, or of the clause that says why there is none."""
    if isinstance(drawn, str):
        return Chart(name, title, f"Left out: {drawn}.", None)
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return Chart(name, title, reading, file.getvalue())


def write_plots(charts: Sequence[Chart], directory: Path) -> None:
    """Write NAME.png for each figure, and remove an earlier one that is left out now."""
    directory.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        path = directory / f"{chart.name}.png"
        if chart.png is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(chart.png)


def panels(count: int = 1, *, width: float = 9.0, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` axes side by side; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [*figure.subplots(1, count, squeeze=False)[0]]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def describe_axes(ax: Axes, *, x: str = "training step", y: str, title: str = "") -> None:
    """Name the axes and, where lines have names, add the legend."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize="medium", loc="left")
    if ax.get_legend_handles_labels()[1]:
        for text in ax.legend(frameon=False, fontsize="small").get_texts():
            text.set_parse_math(False)  # names come from data; a dollar sign in one is no formula


def shares_from_0_to_1(ax: Axes) -> None:
    """Let the vertical axis show all shares that are possible."""
    ax.set_ylim(-0.02, 1.02)


def plot_smoothed(
    ax: Axes, steps_K: Float64Array, values_K: Float64Array, colour: str, name: str
) -> None:
    """Draw values light and their smoothed course strong."""
    ax.plot(steps_K, values_K, color=colour, alpha=0.22, linewidth=0.9)
    ax.plot(steps_K, smooth(values_K), color=colour, linewidth=1.8, label=name)


def smooth(values_K: Float64Array) -> Float64Array:
    """Return the mean of each value and its neighbours, float64 [K].

    A twentieth of all values, fewer at the ends.
    """
    reach = int(values_K.size * _SMOOTHED_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values_K)])
    first = np.maximum(np.arange(values_K.size) - reach, 0)
    end = np.minimum(np.arange(values_K.size) + reach + 1, values_K.size)
    return np.asarray((sums[end] - sums[first]) / (end - first))
