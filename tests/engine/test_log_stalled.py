"""A log call whose write does not come back holds up the thread that made it, and no other."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, threading
from t9k.em import _engine

signal.alarm(60)  # ends this process whatever its threads hold
os.mkfifo("metrics.yaml")  # a disk that takes 64 KiB, and then nothing
file, done = _engine.MetricsFile("metrics.yaml"), []

def log():
    for step in range(2000):
        {call}
        done.append(step)

logging = threading.Thread(target=log)
logging.start()
with open("metrics.yaml", "rb", buffering=0) as read:
    before = -1
    while len(done) > before or not done:  # until it stands still
        before = len(done)
        logging.join(0.5)
    assert 0 < before < 2000, before
    lines = b""
    while lines.count(b"\\n") < 2000:
        lines += read.read(1 << 16)
logging.join()
print(before, lines.count(b'"step": '))
"""


CALLS = {
    "point": "assert file.append_point({'loss': 0.5}, step, None, 0)",
    "line": "file.append(b'- {\"at\": {\"step\": %d}}' % step + b' ' * 50 + b'\\n')",
}


@pytest.mark.parametrize("call", CALLS)
def test_stalled_write_lets_other_threads_run(tmp_path: Path, call: str) -> None:
    code = SCRIPT.replace("{call}", CALLS[call])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.split()[1] == "2000"
