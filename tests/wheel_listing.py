"""Checks that a wheel has all files of the package, and no others: `python tests/wheel_listing.py WHEEL`."""

from __future__ import annotations

import subprocess
import sys
import zipfile


def main(wheel: str) -> None:
    """Exits with what is missing or too much."""
    listed = subprocess.run(["git", "ls-files", "-z", "python/t9k"], check=True, capture_output=True, text=True).stdout
    expected = {path.removeprefix("python/") for path in listed.split("\0") if path} | {"t9k/em/_engine.abi3.so"}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    if found != expected:
        sys.exit(f"{wheel}: missing {sorted(expected - found)}, too much {sorted(found - expected)}")
    print(f"{wheel}: {len(found)} files")


if __name__ == "__main__":
    main(sys.argv[1])
