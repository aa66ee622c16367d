"""HTML of Run, Artifact and Params: complete, bounded, escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from t9k.em.artifact import create_artifact
from t9k.em.notebook import MAX_ROWS, table
from t9k.em.params import Params
from t9k.em.run import Run, create_run

EVIL = "<script>alert('x')</script>&\"\u202e"


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EM_RUN_PARENT_DIR", "EM_ARTIFACT_PARENT_DIR", "EM_STORE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def _safe(html: str) -> str:
    parsed = _Tags(html)
    assert parsed.tags <= {"div", "strong", "table", "tr", "th", "td"}
    assert "\u202e" not in html
    return parsed.text


def test_run_shows_status_parameters_and_last_metrics() -> None:
    run = create_run(hparams={"opt": {"lr": 0.1}, EVIL: EVIL}, labels=[EVIL], description=EVIL)
    run.log(f"<b>{EVIL[1:7]}", {EVIL: 1}, 1)
    run.log("train", {"loss": 0.5}, 1)
    run.log("train", {"loss": 0.25}, 2)
    text = _safe(run._repr_html_())
    for part in (run.alternative_name, "Running", "hparams.opt.lr", "train.loss", "0.25", "alert('x')"):
        assert part in text
    assert "0.5" not in text
    assert "Running" in repr(run)
    assert _safe(Run({"name": "memory"})._repr_html_())


def test_params_show_nested_values() -> None:
    text = _safe(Params(lambda: None, {"a": {"b": [1, 2]}, "c": {}, EVIL: None})._repr_html_())
    assert "a.b" in text
    assert "[1, 2]" in text


def test_artifact_shows_entries(tmp_path: Path) -> None:
    artifact = create_artifact("data", labels=[EVIL], description=EVIL)
    (tmp_path / "a<b>.txt").write_text("12345")
    artifact.add_file(str(tmp_path / "a<b>.txt"))
    artifact.add_reference("s3://bucket/<i>", "link")
    text = _safe(artifact._repr_html_())
    for part in ("a<b>.txt", "5", "s3://bucket/<i>"):
        assert part in text


def test_long_tables_and_texts_are_cut() -> None:
    html = table("t", [(str(index), "x" * 10_000) for index in range(1000)])
    assert f"{1000 - MAX_ROWS} more" in html
    assert len(html) < 30_000
