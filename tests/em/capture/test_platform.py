"""Platform, packages, launcher and GPUs of a Run, and how long the script waits for them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from t9k.em.capture import platform as capture_platform
from t9k.em.capture import snapshot
from t9k.em.capture.gpu import Nvml
from t9k.em.capture.launcher import read_launcher
from t9k.em.capture.packages import read_packages
from t9k.em.capture.platform import read_cgroup_limits, read_platform
from t9k.em.capture.secrets import is_secret_name, scrub_command
from t9k.em.run import create_run


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))


def test_platform_names_machine_interpreter_and_command() -> None:
    found = read_platform()
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu"]["count"] == os.cpu_count()
    assert found["memory_bytes"] > 1 << 20
    assert found["os"]["system"] == os.uname().sysname
    assert found["command"][0] == sys.executable
    assert yaml.safe_load(yaml.safe_dump(found)) == found


def test_packages_agree_with_importlib_metadata() -> None:
    packages = read_packages()
    for name in ("pyyaml", "pytest", "click", "requests"):
        assert packages[name] == importlib.metadata.version(name)


def test_packages_read_egg_info_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old_one-1.2-py3.11.egg-info").mkdir()
    (tmp_path / "develop.egg-info").mkdir()
    (tmp_path / "develop.egg-info" / "PKG-INFO").write_text("Name: develop\nVersion: 3\n\nVersion: 9\n")
    (tmp_path / "broken.egg-info").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing")])
    assert read_packages() == {"develop": "3", "old-one": "1.2"}


def test_launcher_keeps_ranks_and_leaves_secrets_out() -> None:
    environ = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_TOKEN": "s3cret",
        "OMPI_COMM_WORLD_RANK": "1",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "MASTER_ADDR": "http://u:s3cret@h",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "PATH": "/bin",
        "PET_NODE_RANK": "x" * 5000,
    }
    found = read_launcher(environ)
    assert set(found) == {"torchrun", "slurm", "mpi", "kubernetes"}
    assert found["torchrun"] == {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "http://h"}
    assert len(found["kubernetes"]["PET_NODE_RANK"]) == 1000
    assert "s3cret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--api-key", "abc", "x"], ["--api-key", "***", "x"]),
        (["--api_key=abc"], ["--api_key=***"]),
        (["token=abc", "--password", "--lr", "1"], ["token=***", "--password", "--lr", "1"]),
        (["s3://user:pw@bucket/x"], ["s3://bucket/x"]),
        (["https://h/x?a=1&X-Amz-Signature=abc"], ["https://h/x?a=1&X-Amz-Signature=***"]),
        (["hf_" + "a" * 30], ["***"]),
        (["--max-tokens", "128", "--tokenizer=gpt2"], ["--max-tokens", "128", "--tokenizer=gpt2"]),
    ],
)
def test_command_line_has_no_secrets(words: list[str], expected: list[str]) -> None:
    assert scrub_command(words) == expected


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "aws_access_key_id", "MY_KEY"])
def test_names_of_secrets_are_recognised(name: str) -> None:
    assert is_secret_name(name)


def test_cgroup_limits_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("1048576\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("max 100000\n")
    assert read_cgroup_limits(str(tmp_path), "0::/a/b\n") == {"memory_bytes": 1048576, "cpus": 1.5}


def test_cgroup_version_1_limits_are_read(tmp_path: Path) -> None:
    for name, value in (("memory/x/memory.limit_in_bytes", 4096), ("memory/memory.limit_in_bytes", (1 << 63) - 4096)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert read_cgroup_limits(str(tmp_path), "4:memory:/x\n3:cpu,cpuacct:/\n") == {"memory_bytes": 4096}


class FakeNvml:
    """Answers as libnvidia-ml does, for one device."""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == "nvmlDeviceGetCount_v2":
                ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_uint))[0] = 1
            elif name == "nvmlDeviceGetMemoryInfo":
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_ulonglong))[0] = 100
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_ulonglong))[2] = 40
            elif name == "nvmlDeviceGetUtilizationRates":
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_uint))[0] = 77
            elif name == "nvmlDeviceGetName":
                arguments[1].value = b"Card"
            elif name != "nvmlInit_v2" and name != "nvmlDeviceGetHandleByIndex_v2":
                return 3  # NVML_ERROR_NOT_SUPPORTED
            return 0

        return call


def test_gpus_are_described_and_measured() -> None:
    nvml = Nvml(FakeNvml())
    assert nvml.describe() == [{"name": "Card", "memory_bytes": 100}]
    assert nvml.usage() == {"gpu.0.percent": 77, "gpu.0.memory_bytes": 40}
    assert nvml.driver() == ""


def test_create_run_writes_platform_and_git_in_the_background() -> None:
    run = create_run()
    run.finish()
    written = yaml.safe_load(Path(run.local, "platform.yaml").read_text())
    assert written["python"]["version"] == run.platform["python"]["version"]
    assert written["packages"]["pyyaml"]
    assert Path(run.local, "git.yaml").read_text()


def test_slow_collectors_do_not_delay_create_or_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_read_platform", lambda: time.sleep(0.5) or {})
    create_run().finish()  # imports what the first run imports
    start = time.perf_counter()
    run = create_run()
    run.log("train", {"loss": 1}, 1)
    assert time.perf_counter() - start < 0.4
    run.finish()


def test_failing_collectors_do_not_reach_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(snapshot, "_read_platform", fail)
    monkeypatch.setattr(snapshot, "_read_git", fail)
    run = create_run()
    run.finish()
    assert (run.status, run.platform, run.git) == ("Complete", {}, {})


def test_unreadable_proc_leaves_fields_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_platform, "_text", lambda path: "")
    found = read_platform()
    assert "memory_bytes" not in found
    assert "limits" not in found


def test_fork_while_collecting_leaves_the_child_free() -> None:
    code = (
        "import os\nfrom t9k.em.run import create_run\nr = create_run()\n"
        "pid = os.fork()\n"
        "if not pid:\n    r.log('train', {'a': 1}, 1); r.finish(); os._exit(0)\n"
        "print(os.waitpid(pid, 0)[1])\n"
    )
    for _ in range(5):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30)
        assert done.stdout.strip() == "0"
