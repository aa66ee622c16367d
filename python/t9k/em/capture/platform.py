"""The machine, the limits and the command that a Run has."""

from __future__ import annotations

import os
import sys
from typing import Any

from t9k.em.capture.gpu import Nvml
from t9k.em.capture.launcher import read_launcher
from t9k.em.capture.packages import read_packages
from t9k.em.capture.secrets import scrub_command

MAX_ARGUMENTS = 1000
"""More words of a command line are a glob, not settings."""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""


def read_platform() -> dict[str, Any]:
    """Returns the contents of ``platform.yaml``; what is unknown is left out."""
    system = os.uname()
    release = dict(line.partition("=")[::2] for line in _text("/etc/os-release").splitlines() if "=" in line)
    found: dict[str, Any] = {
        "host": system.nodename,
        "os": {
            "system": system.sysname,
            "release": system.release,
            "machine": system.machine,
            "distribution": release.get("PRETTY_NAME", "").strip("\"'"),
        },
        "python": {
            "version": sys.version.split()[0],
            "implementation": sys.implementation.name,
            "executable": sys.executable or "",
        },
        "command": scrub_command([sys.executable or "", *sys.orig_argv[1:]][: MAX_ARGUMENTS + 1]),
        "directory": _directory(),
        "cpu": {
            "model": _field(_text("/proc/cpuinfo"), "model name"),
            "count": os.cpu_count() or 0,
            "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        },
        "memory_bytes": _memory_bytes(),
        "limits": read_cgroup_limits(),
        "gpus": [],
        "launcher": read_launcher(os.environ),
        "packages": read_packages(),
    }
    try:
        nvml = Nvml()
        found["gpus"] = nvml.describe()
        found["gpu_driver"] = nvml.driver()
    except (OSError, AttributeError):
        pass  # no GPU, no driver, or a library without these calls
    return {key: value for key, value in found.items() if value not in ({}, "", 0)}


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # somebody has removed it
        return ""


def _memory_bytes() -> int:
    words = _field(_text("/proc/meminfo"), "MemTotal").split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else 0


def read_cgroup_limits(root: str = "/sys/fs/cgroup", own: str | None = None) -> dict[str, float]:
    """Returns the tightest memory and CPU limits on the way up from this process's cgroup.

    Args:
        root: Where the cgroup file system is.
        own: Contents of ``/proc/self/cgroup``; read if None.

    Returns:
        ``memory_bytes`` and ``cpus``, each only if there is a limit.
    """
    lines = (_text("/proc/self/cgroup") if own is None else own).splitlines()
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines if line.count(":") >= 2}
    limits: dict[str, float] = {}
    for folder in _upwards(root, paths.get("", "/")):
        _lower(limits, "memory_bytes", _number(_text(f"{folder}/memory.max")))
        quota, _, period_us = _text(f"{folder}/cpu.max").strip().partition(" ")
        _lower(limits, "cpus", _ratio(_number(quota), _number(period_us)))
    for controllers, path in paths.items():  # version 1
        names = controllers.split(",")
        if "memory" in names:
            for folder in _upwards(f"{root}/memory", path):
                _lower(limits, "memory_bytes", _number(_text(f"{folder}/memory.limit_in_bytes")))
        if "cpu" in names:
            for folder in _upwards(f"{root}/cpu", path):
                quota_us = _number(_text(f"{folder}/cpu.cfs_quota_us"))
                _lower(limits, "cpus", _ratio(quota_us, _number(_text(f"{folder}/cpu.cfs_period_us"))))
    return limits


def _upwards(root: str, path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [os.path.join(root, *parts[:count]) for count in range(len(parts), -1, -1)]


def _number(text: str) -> int | None:
    text = text.strip()
    # Version 1 says "no limit" by a number near 2**63.
    return int(text) if text.isdigit() and 0 < int(text) < 1 << 60 else None


def _ratio(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None


def _lower(limits: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        limits[name] = min(value, limits.get(name, value))
