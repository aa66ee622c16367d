"""Whether the process of a run still lives, judged from its metadata and a heartbeat file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

FILE = ".heartbeat"

BEAT_S = 10.0
"""Interval of the heartbeat and of the system metrics."""

STALE_S = 180.0
"""A foreign process that has not beaten for this long is gone: 18 beats, or a clock that is off by minutes."""


def process_start(pid: int) -> str:
    """Returns the boot-relative start time of a process, or '' if it is gone, a zombie, or unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (OSError, IndexError):
        return ""


def boot_id() -> str:
    """Returns what tells one boot of one machine from every other, or ''."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def pid_namespace() -> str:
    """Returns the container, so to speak, in which a process number means something, or ''."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def identify() -> dict[str, Any]:
    """Returns what `is_gone` needs to know about this process."""
    pid = os.getpid()
    return {
        "host": os.uname().nodename,
        "boot": boot_id(),
        "pid_namespace": pid_namespace(),
        "pid": pid,
        "start": process_start(pid),
    }


def is_gone(process: Mapping[str, Any], folder: str, file: str = FILE) -> bool:
    """Tells whether the process that wrote a run is gone for certain.

    In the same boot and process namespace, the process table knows, whatever
    the heartbeat's age: a stopped process is not gone. From elsewhere (another
    host or container, or after a reboot) the heartbeat decides, because the
    same process may look foreign to us: only `STALE_S` without a beat count.

    Args:
        process: What `identify` returned in the run's process.
        folder: The run's directory.
        file: The file in it whose modification time the process renews.
    """
    if not isinstance(process.get("pid"), int):
        return False
    here = identify()
    is_same_machine = process.get("host") == here["host"] and "boot" not in process
    is_same_boot = bool(here["boot"]) and process.get("boot") == here["boot"]
    is_same_namespace = process.get("pid_namespace", here["pid_namespace"]) == here["pid_namespace"]
    if (is_same_boot or is_same_machine) and is_same_namespace:
        return process_start(process["pid"]) != process.get("start")
    try:
        age_s = time.time() - os.stat(os.path.join(folder, file)).st_mtime
    except FileNotFoundError:  # it died before its first beat, which comes before its metadata
        return "boot" in process
    except OSError:
        return False
    return age_s > STALE_S


def beat(folder: str) -> None:
    """Renews the heartbeat.

    Raises:
        OSError: The file cannot be written.
    """
    path = os.path.join(folder, FILE)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.utime(fd)
    finally:
        os.close(fd)
