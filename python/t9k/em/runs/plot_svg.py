"""A plot as SVG, without a library: lines, axes, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from t9k.em.escape import printable
from t9k.em.runs.curves import Curve, Line, View, thinned, tick_text, ticks, view_of

COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
_WIDTH, _HEIGHT = 860, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 20, 50
_LEGEND_ROW = 20


def plot_svg(curves: Sequence[Curve], x_label: str, *, is_log: bool) -> str:
    """Returns the document; labels are escaped, characters that XML refuses too."""
    pieces = [thinned(curve, _WIDTH, is_log) for curve in curves]
    view = view_of((line for lines in pieces for line in lines), is_log)
    height = _HEIGHT + _LEGEND_ROW * len(curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    if view is None:
        parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no values</text>')
    else:
        parts += _axes(view, x_label)
        for index, lines in enumerate(pieces):
            color = COLORS[index % len(COLORS)]
            parts += [_polyline(line, view, color) for line in lines]
    for index, curve in enumerate(curves):
        y = _HEIGHT + _LEGEND_ROW * index
        color = COLORS[index % len(COLORS)]
        parts.append(f'<path d="M{_LEFT} {y}h24" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{_LEFT + 32}" y="{y + 4}">{_text(curve.label)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(value: float, view: View) -> str:
    return f"{_LEFT + (value - view.x_low) / (view.x_high - view.x_low) * (_WIDTH - _LEFT - _RIGHT):.2f}"


def _y(value: float, view: View) -> str:
    return f"{_TOP + (view.y_high - value) / (view.y_high - view.y_low) * (_HEIGHT - _TOP - _BOTTOM):.2f}"


def _polyline(line: Line, view: View, color: str) -> str:
    if len(line) == 1:
        (x, y) = line[0]
        return f'<circle cx="{_x(x, view)}" cy="{_y(y, view)}" r="2" fill="{color}"/>'
    points = " ".join(f"{_x(x, view)},{_y(y, view)}" for x, y in line)
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5" stroke-linejoin="round"/>'


def _axes(view: View, x_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in ticks(view.y_low, view.y_high, 6):
        y = _y(tick, view)
        parts.append(f'<path d="M{_LEFT} {y}H{right}" stroke="#ddd"/>')
        text = tick_text(tick, view.is_log)
        parts.append(f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{text}</text>')
    for tick in ticks(view.x_low, view.x_high, 8):
        x = _x(tick, view)
        parts.append(f'<path d="M{x} {bottom}v5" stroke="#444"/>')
        parts.append(f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{tick_text(tick)}</text>')
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#444"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 36}" text-anchor="middle">{_text(x_label)}</text>')
    return parts


def _text(text: str) -> str:
    return escape(printable(text))
