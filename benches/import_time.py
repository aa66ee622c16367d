"""Time of `from t9k import em` in a fresh interpreter, beside a bare one and two modules of the standard library."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from alternate import alternate, compile_package, report, workplace

STATEMENTS = {
    "bare": "pass",
    "json, argparse": "import json, argparse",
    "from t9k import em": "from t9k import em",
    "em.create_run": "from t9k import em; em.create_run",
    "em.create_artifact": "from t9k import em; em.create_artifact",
}
"""Names of `em` bring their modules when they are first used; the last two rows use one."""

HEAVY = ("requests", "numpy", "click", "tqdm", "yaml")


def imported(statement: str) -> list[str]:
    code = f"{statement}; import sys; print(*({{*{HEAVY!r}}} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def run(statement: str) -> None:
        subprocess.run([sys.executable, "-c", statement], check=True)

    compile_package()
    with workplace():
        contenders = {name: (lambda turn, code=code: run(code)) for name, code in STATEMENTS.items()}
        seconds = alternate(contenders, options.rounds)
    report("import", seconds, "bare", options.json)
    heavy = {name: imported(code) for name, code in STATEMENTS.items()}
    print(json.dumps({"bench": "imported", "rows": heavy}) if options.json else f"  heavy modules: {heavy}")


if __name__ == "__main__":
    main()
