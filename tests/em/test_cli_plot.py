"""`em plot`: what is drawn in terminals, as SVG and as PNG."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from array import array
from pathlib import Path

import pytest
from t9k import em
from t9k.em.runs.curves import Curve, thinned, tick_text, ticks
from t9k.em.runs.plot_svg import plot_svg
from t9k.em.runs.plot_terminal import plot_lines

EM = [sys.executable, "-m", "t9k.em"]
SVG = "{http://www.w3.org/2000/svg}"
RAMP = Curve("ramp", array("d", range(100)), array("d", range(100)))


pytestmark = pytest.mark.usefixtures("directory")


@pytest.fixture
def run() -> em.Run:
    with em.create_run(name="plotted") as run:
        for step in range(50):
            run.log("train", {"loss": math.exp(-step / 10), "<b>&\x1b[2J$x": step}, step=step)
            run.log("system", {"loss": 100}, step=step)
    return run


def call(*args: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [*EM, "plot", *args], capture_output=True, text=True, check=False, env=os.environ | environment, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def drawn(curves: list[Curve], is_log: bool = False, is_ascii: bool = False) -> list[str]:
    style = lambda text, color: text  # noqa: E731
    return list(plot_lines(curves, 52, 12, is_log=is_log, is_ascii=is_ascii, style=style))


def test_terminal_plot_of_a_ramp_is_a_diagonal() -> None:
    rows = [line[12:] for line in drawn([RAMP], is_ascii=True)[:10]]
    first = [row.index("a") for row in rows]
    assert first == sorted(first, reverse=True)
    assert first[0] > 34
    assert rows[-1][0] == "a"
    assert drawn([RAMP])[0][12:].strip() == "⢀⠤⠔⠉"


def test_terminal_shows_the_metric_with_axes_and_legend(run: em.Run) -> None:
    shown = call("plotted", "--metric", "loss")
    assert "── train/loss  0.0074466" in shown
    assert "system" not in shown
    assert "\x1b" not in shown
    assert "step" in shown
    assert any(0x2800 < ord(char) < 0x2900 for char in shown)
    assert "\\x1b[2J$x" in call("plotted", "--metric", "train/<b>&\x1b[2J$x")
    assert call("plotted", "--metric", "loss", PYTHONIOENCODING="ascii").isascii()
    assert "seconds since the start" in call("plotted", "--metric", "loss", "--x", "time")


def test_svg_is_xml_with_a_line_and_an_escaped_legend(run: em.Run, directory: Path) -> None:
    call("plotted", "--metric", "loss", "--metric", "<b>&\x1b[2J$x", "-o", "plot.svg")
    root = ET.parse(directory / "plot.svg").getroot()
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 2
    points = [tuple(map(float, point.split(","))) for point in lines[0].attrib["points"].split()]
    assert len(points) == 50
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # a falling loss goes down
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert "train/loss" in texts
    assert "train/<b>&\\x1b[2J$x" in texts
    assert sorted(os.listdir(directory)) == [".em", "plot.svg"]


def test_png_is_made_by_matplotlib(run: em.Run, directory: Path) -> None:
    pytest.importorskip("matplotlib")
    call("plotted", "--metric", "loss", "--metric", "<b>&\x1b[2J$x", "--log", "-o", "plot.png")
    assert (directory / "plot.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_missing_matplotlib_is_an_error_that_says_so(run: em.Run, directory: Path) -> None:
    (directory / "hidden").mkdir()
    (directory / "hidden" / "matplotlib.py").write_text("raise ImportError")
    path = f"{directory / 'hidden'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    assert "pip install matplotlib, or use .svg" in call(
        "plotted", "--metric", "loss", "-o", "plot.png", code=1, PYTHONPATH=path
    )
    assert not (directory / "plot.png").exists()


def test_unknown_metric_names_those_there_are(run: em.Run) -> None:
    said = call("plotted", "--metric", "lost", code=1)
    assert "there is no metric 'lost'" in said
    assert "train/loss" in said
    assert "neither in .svg nor in .png" in call("plotted", "--metric", "loss", "-o", "plot.jpg", code=2)


@pytest.mark.parametrize(
    "values",
    [[], [math.nan], [math.inf, -math.inf], [1.0], [0.0, 0.0], [-1.7e308, 1.7e308], [5e-324, 1e-323], [1e308] * 3],
)
@pytest.mark.parametrize("is_log", [False, True])
def test_odd_values_are_drawn_or_left_out(values: list[float], is_log: bool) -> None:
    curve = Curve("odd", array("d", range(len(values))), array("d", values))
    assert drawn([curve, RAMP], is_log)
    assert drawn([curve], is_log)
    ET.fromstring(plot_svg([curve], "step", is_log=is_log))


def test_gaps_part_a_line_and_single_points_stay() -> None:
    curve = Curve("gaps", array("d", range(5)), array("d", [1, math.nan, 2, 3, math.inf]))
    assert thinned(curve, 100, False) == [[(0, 1)], [(2, 2), (3, 3)]]


def test_million_points_are_thinned_and_keep_their_extremes() -> None:
    values = array("d", [0.0]) * 1_000_000
    values[654_321] = 7.0
    (line,) = thinned(Curve("long", array("d", range(1_000_000)), values), 100, False)
    assert len(line) <= 400
    assert (654_321, 7.0) in line
    assert (line[0][0], line[-1][0]) == (0, 999_999)


@pytest.mark.parametrize("low", [0, -1e-9, 1e300, -7, 0.1])
@pytest.mark.parametrize("size", [1e-6, 1, 12345.6, 1e299])
def test_ticks_are_few_and_within_the_range(low: float, size: float) -> None:
    found = ticks(low, low + size, 6)
    assert len(found) <= 14
    assert all(low <= tick <= low + size for tick in found)


def test_tick_texts_are_short() -> None:
    assert [tick_text(value) for value in (0, 500_000, 0.25, 1e9, -3)] == ["0", "500000", "0.25", "1e+09", "-3"]
    assert tick_text(-2, is_log=True) == "0.01"
