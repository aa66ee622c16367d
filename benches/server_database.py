"""Small durable transactions and reads on SQLite (WAL or rollback journal), alternating, in one run.

`python benches/server_database.py [--rounds N]`: medians of transactions each second by one and by eight threads, and
of reads while another thread writes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from t9k.aistore.db import Database, tables
from t9k.aistore.db.tables.accounts import groups

SECONDS = 1.0


def opened(directory: Path, journal: str) -> Database:
    """A new database with this journal mode."""
    database = Database(f"sqlite:///{directory / journal}.sqlite3")
    database.journal_mode = journal
    tables.metadata.create_all(database.engine)
    return database


def rate(work: Callable[[int], object], threads: int) -> float:
    """Calls a second of `work` by some threads."""
    counts = [0] * threads
    end = time.perf_counter() + SECONDS

    def run(index: int) -> None:
        while time.perf_counter() < end:
            work(index)
            counts[index] += 1

    running = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / SECONDS


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(dir=".") as directory:
        databases = {journal: opened(Path(directory), journal) for journal in ("WAL", "DELETE")}
        found: dict[tuple[str, str], list[float]] = {}
        number = iter(range(10**9))
        for _ in range(rounds):
            for journal, database in databases.items():

                def write(_: int, database: Database = database) -> None:
                    key = str(next(number))
                    row = {"id": key, "name": key, "created_us": 0}
                    database.write(lambda connection: connection.execute(sa.insert(groups).values(row)))

                def read(_: int, database: Database = database) -> None:
                    query = sa.select(groups).where(groups.c.name == "1")
                    database.read(lambda connection: connection.execute(query).first())

                found.setdefault((journal, "1 writer"), []).append(rate(write, 1))
                found.setdefault((journal, "8 writers"), []).append(rate(write, 8))
                busy = threading.Thread(target=rate, args=(write, 1))
                busy.start()
                found.setdefault((journal, "4 readers beside a writer"), []).append(rate(read, 4))
                busy.join()
        for (journal, what), rates in found.items():
            print(f"{journal:7} {what:26} {statistics.median(rates):8.0f} /s")


if __name__ == "__main__":
    main()
