"""A plot as PNG, by matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from t9k.em.errors import InvalidInputError
from t9k.em.escape import printable
from t9k.em.runs.curves import Curve, thinned
from t9k.em.runs.plot_svg import COLORS


def plot_png(curves: Sequence[Curve], x_label: str, path: str, *, is_log: bool) -> None:
    """Writes the image.

    Raises:
        InvalidInputError: matplotlib is not installed.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
        figures = importlib.import_module("matplotlib.figure")
        artists = importlib.import_module("matplotlib.lines")
    except ImportError:
        raise InvalidInputError(
            "a plot as PNG needs matplotlib, which is not installed", hint="pip install matplotlib, or use .svg"
        ) from None
    with matplotlib.rc_context({"text.parse_math": False}):  # a $ in a name is no formula
        figure = figures.Figure(figsize=(8.6, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        handles = []
        for index, curve in enumerate(curves):
            color = COLORS[index % len(COLORS)]
            handles.append((artists.Line2D([], [], color=color), printable(curve.label)))
            for line in thinned(curve, 2000, False):
                xs, ys = zip(*line, strict=True)
                axes.plot(xs, ys, color=color, linewidth=1.2, marker="." if len(line) == 1 else None)
        if is_log:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.grid(alpha=0.3)
        figure.legend(*zip(*handles, strict=True), loc="outside lower center", frameon=False)
        figure.savefig(path, format="png")
