"""What a run uses of its machine: CPU, memory, disk, network, GPU."""

from __future__ import annotations

import os
import time

from t9k.em.capture.gpu import Nvml

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_SECTOR_BYTES = 512  # of /proc/diskstats, whatever the disk's own are


def is_wanted() -> bool:
    """Tells whether EM_SYSTEM_METRICS allows these metrics."""
    return os.environ.get("EM_SYSTEM_METRICS") != "0"


def _lines(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line.replace(":", " ").split() for line in file]
    except OSError:
        return []


class SystemSampler:
    """Samples of the machine; rates are means since the last sample."""

    def __init__(self, root: str = "/proc") -> None:
        """Takes the first reading, which the first sample's rates begin with.

        Args:
            root: Where the process file system is.
        """
        self._root = root
        try:
            self._nvml: Nvml | None = Nvml()
        except (OSError, AttributeError):
            self._nvml = None
        self._last = self._counters()
        self._last_s = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Returns values by name, units in the names; what is unknown is left out.

        ``cpu.percent`` is of all CPUs, ``process.cpu_percent`` of one.
        """
        counters, now_s = self._counters(), time.monotonic()
        passed_s = max(now_s - self._last_s, 1e-3)
        rates = {name: max(0.0, value - self._last.get(name, value)) for name, value in counters.items()}
        self._last, self._last_s = counters, now_s
        values = self._memory()
        if rates.get("cpu_total"):
            values["cpu.percent"] = 100 * rates["cpu_busy"] / rates["cpu_total"]
        if "process_ticks" in rates:
            values["process.cpu_percent"] = 100 * rates["process_ticks"] / _TICKS_PER_S / passed_s
        for name in ("disk.read", "disk.written", "network.received", "network.sent"):
            if name in rates:
                values[f"{name}_bytes_per_s"] = rates[name] / passed_s
        if self._nvml is not None:
            values.update(self._nvml.usage())
        return {name: round(value, 2) for name, value in sorted(values.items())}

    def _memory(self) -> dict[str, float]:
        kib = {line[0]: int(line[1]) for line in _lines(f"{self._root}/meminfo") if len(line) > 1 and line[1].isdigit()}
        values: dict[str, float] = {}
        if "MemTotal" in kib and "MemAvailable" in kib:
            values["memory.used_bytes"] = (kib["MemTotal"] - kib["MemAvailable"]) * 1024
            values["memory.percent"] = 100 * (1 - kib["MemAvailable"] / max(kib["MemTotal"], 1))
        for line in _lines(f"{self._root}/self/statm"):
            values["process.memory_bytes"] = int(line[1]) * _PAGE_BYTES
        return values

    def _counters(self) -> dict[str, float]:
        counters: dict[str, float] = {}
        for line in _lines(f"{self._root}/stat")[:1]:
            ticks = [int(word) for word in line[1:9]]  # guest time, behind them, is in user time already
            counters["cpu_total"] = sum(ticks)
            counters["cpu_busy"] = sum(ticks) - sum(ticks[3:5])  # idle, iowait
        times = os.times()
        counters["process_ticks"] = (times.user + times.system) * _TICKS_PER_S
        for line in _lines(f"{self._root}/diskstats"):
            # Whole disks only: partitions and stacked devices would count twice.
            if len(line) > 9 and os.path.isdir(f"/sys/block/{line[2]}/device"):
                _add(counters, "disk.read", int(line[5]) * _SECTOR_BYTES)
                _add(counters, "disk.written", int(line[9]) * _SECTOR_BYTES)
        for line in _lines(f"{self._root}/net/dev")[2:]:
            if len(line) > 9 and line[0] != "lo":
                _add(counters, "network.received", int(line[1]))
                _add(counters, "network.sent", int(line[9]))
        return counters


def _add(counters: dict[str, float], name: str, value: float) -> None:
    counters[name] = counters.get(name, 0.0) + value
