"""Metrics of the machine, logged beside the script's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from t9k.em.capture import heartbeat
from t9k.em.capture.system import SystemSampler
from t9k.em.run import create_run


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))


def test_sample_has_cpu_memory_and_network() -> None:
    sampler = SystemSampler()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
    values = sampler.sample()
    assert 0 < values["process.cpu_percent"] < 400
    assert 0 <= values["cpu.percent"] <= 100
    assert 1 << 20 < values["process.memory_bytes"] < values["memory.used_bytes"]
    assert values["network.received_bytes_per_s"] >= 0


def test_rates_are_differences_over_time(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()

    def write(received: int, sent: int) -> None:
        head = "Inter-|   Receive\n face |bytes\n"
        device = f"{received} 0 0 0 0 0 0 0 {sent} 0\n"
        (tmp_path / "net" / "dev").write_text(f"{head}    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0:{device}")
        (tmp_path / "stat").write_text(f"cpu  {received} 0 0 {sent} 0 0 0 0 0 0\n")

    write(0, 0)
    sampler = SystemSampler(str(tmp_path))
    write(3000, 1000)
    sampler._last_s -= 10
    values = sampler.sample()
    assert values["network.received_bytes_per_s"] == pytest.approx(300, rel=0.01)
    assert values["network.sent_bytes_per_s"] == pytest.approx(100, rel=0.01)
    assert values["cpu.percent"] == 75
    write(0, 0)  # a counter that wrapped
    assert sampler.sample()["network.sent_bytes_per_s"] == 0


def test_missing_proc_gives_what_is_known(tmp_path: Path) -> None:
    assert "memory.percent" not in SystemSampler(str(tmp_path)).sample()


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_system_metrics_follow_their_switch_and_the_heart_beats(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    monkeypatch.setenv("EM_SYSTEM_METRICS", wanted)
    run = create_run()
    beat = Path(run.local, heartbeat.FILE)
    first_ns = beat.stat().st_mtime_ns
    time.sleep(0.5)
    run.finish()
    assert beat.stat().st_mtime_ns > first_ns
    points = run.metrics.get("system", [])
    assert bool(points) == (wanted == "1")
    if points:
        assert [point["at"]["step"] for point in points] == list(range(len(points)))
        assert points[0]["metrics"]["memory.percent"] > 0
    count = len(points)
    time.sleep(0.1)
    assert len(run.metrics.get("system", [])) == count
