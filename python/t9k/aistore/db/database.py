"""Connections and transactions, on SQLite and PostgreSQL.

Rules call `Database.read` and `Database.write` with a function of a connection. A write is serializable: on SQLite it
holds the one write lock from its first statement on, on PostgreSQL it runs again when it met another (SQLSTATE
40001 or 40P01). So the function must do nothing but talk to the database, and a rule may read, decide and write without
thinking of others. What meets others again and again runs alone, so none is refused because there are many.

What a run sends comes often and in small parts, and concerns the rows of that run only. `Database.write_to_run` locks
the run instead, so that nothing has to run again, and commits for many runs at once. The reasons are in
`docs/adr/0005-server-database.md`.

SQLite: WAL with ``synchronous=FULL``, by a library without the WAL-reset bug (see `docs/adr`).
"""

from __future__ import annotations

import importlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import ModuleType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from t9k.aistore.db import runs
from t9k.aistore.db.together import Together, Work
from t9k.aistore.errors import Refusal, invalid

Item = TypeVar("Item")
T = TypeVar("T")
P = ParamSpec("P")

FIXED_SQLITE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""Releases without the bug that can corrupt a database in WAL mode: the first and later, others in their line."""

BUSY_TIMEOUT_S = 30

FREE_ATTEMPTS = 5
"""Attempts beside others of a transaction on PostgreSQL; then it runs alone."""

MAX_ATTEMPTS = 2 * FREE_ATTEMPTS
"""Attempts before it fails. One that ran alone can only have met somebody who does not ask: a tool, a migration."""

GROUPS_AT_ONCE = 4
"""Transactions of what came together that a process has open at most; SQLite has one writer."""

_GATE = "job_turns"
"""The table whose lock says whether others may write: LOCK comes before the snapshot is taken, as no query does."""


class Database:
    """A metadata database. Safe between threads; each process opens its own."""

    journal_mode = "WAL"  # of SQLite; another one is for the benchmark that chose it

    def __init__(self, url: str, *, pool_size: int = 40) -> None:
        """Opens no connection yet.

        Args:
            url: As SQLAlchemy takes it: ``sqlite:////path/to/file`` or ``postgresql://user:password@host/name``.
            pool_size: Connections that may be open at once.

        Raises:
            Refusal: It is no URL of such a database (`invalid_input`).
        """
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._write_lock = threading.Lock()
        self.engine = self._sqlite(pool_size) if self.is_sqlite else self._postgresql(pool_size)
        self._writes = Together(self._write_to_runs, 1 if self.is_sqlite else GROUPS_AT_ONCE)
        self._reads = Together(lambda _, work: self.read(work), GROUPS_AT_ONCE)
        self._queries = Together(lambda _, work: self.query(work), GROUPS_AT_ONCE)

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work` with a connection and these arguments, on one snapshot of the database."""
        if self.is_sqlite:
            with self.engine.begin() as connection:
                return work(connection, *args, **kwargs)
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return self._again_if_lost(options, lambda connection: work(connection, *args, **kwargs))

    def query(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, of work that is one statement: without a transaction, which is two more ways to PostgreSQL."""
        if self.is_sqlite:
            return self.read(work, *args, **kwargs)
        return self._again_if_lost({"isolation_level": "AUTOCOMMIT"}, lambda c: work(c, *args, **kwargs))

    def read_together(self, work: Callable[[Connection], T]) -> Future[T]:
        """As `read`, of work that is short and comes often: on one snapshot for all that waits for it.

        It begins after this was called, so it sees what was committed before. What one refuses is raised for it only.
        """
        return self._reads.submit("", _each, work)

    def query_together(self, work: Work[Item, T], item: Item) -> Future[T]:
        """As `query`, of what many ask: `work` is called once with the items of all that wait for it.

        It begins after this was called, so it sees what was committed before. It answers a result for each, or an
        exception, which is raised for this one only.
        """
        return self._queries.submit("", work, item)

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work` in one serializable transaction, durable when this returns; again if it met another."""
        if self.is_sqlite:
            # Waiting here is fair; SQLite's own waiting is a poll.
            with self._write_lock, self.engine.connect() as connection:
                connection = connection.execution_options(is_write=True)
                with connection.begin():
                    return work(connection, *args, **kwargs)
        return self._attempts("SERIALIZABLE", lambda connection: work(connection, *args, **kwargs))

    def write_to_run(self, run_id: str, work: Callable[[Connection], T]) -> T:
        """Runs `work`, durable when this returns, in one transaction with what other threads write to runs just then.

        The run's row is locked from the start, and every statement sees what was committed before it: `work` must
        write nothing but that row and what belongs to it alone, as must all that write such rows. It must bear to run
        twice.
        """

        def alone(connection: Connection, _: Sequence[None]) -> Sequence[T | Exception]:
            return [work(connection)]

        return self._writes.submit(run_id, alone, None).result()

    def write_to_run_together(self, run_id: str, work: Work[Item, T], item: Item) -> Future[T]:
        """As `write_to_run`, of what many send: `work` is called once with the items of all that wait for it.

        It answers a result for each: an exception, which is raised for this one only, if it cannot be written. A
        future, because nobody needs a thread to wait.
        """
        return self._writes.submit(run_id, work, item)

    def migrate(self, work: Callable[[Connection], object]) -> None:
        """Runs `work`, which may change the schema, in one transaction. A second at once waits, and sees its work."""
        if self.is_sqlite:
            self.write(work)
            return
        with self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7303014)")  # any number that is ours
                work(connection)

    def _write_to_runs(self, run_ids: Sequence[str], work: Callable[[Connection], T]) -> T:
        def locked(connection: Connection) -> T:
            runs.lock(connection, run_ids)
            return work(connection)

        return self.write(work) if self.is_sqlite else self._attempts("READ COMMITTED", locked)

    def _attempts(self, isolation: Literal["SERIALIZABLE", "READ COMMITTED"], work: Callable[[Connection], T]) -> T:
        """Runs `work` on PostgreSQL until it has met nobody, beside others first and alone in the end."""
        for attempt in range(MAX_ATTEMPTS):
            mode = "ROW SHARE" if attempt < FREE_ATTEMPTS else "EXCLUSIVE"
            has_begun = False
            try:
                with self.engine.connect() as connection:
                    connection = connection.execution_options(isolation_level=isolation)
                    with connection.begin():
                        connection.exec_driver_sql(f"LOCK TABLE {_GATE} IN {mode} MODE")
                        has_begun = True
                        return work(connection)
            except sa.exc.DBAPIError as error:
                has_met_another = getattr(error.orig, "sqlstate", None) in ("40001", "40P01")
                was_lost = error.connection_invalidated and not has_begun
                if not (has_met_another or was_lost) or attempt + 1 == MAX_ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 0.005 * 2**attempt) if attempt < FREE_ATTEMPTS else 0)
        raise AssertionError("unreachable")

    def _again_if_lost(self, options: dict[str, Any], work: Callable[[Connection], T]) -> T:
        """Runs `work`, which only reads, on PostgreSQL; again if its connection was dead, as all are of one restart.

        Asking each connection whether it lives, before it is used, would be one way more to the database for each.
        """
        for attempt in range(2):
            try:
                with self.engine.connect() as connection:
                    connection = connection.execution_options(**options)
                    with connection.begin():
                        return work(connection)
            except sa.exc.DBAPIError as error:
                if attempt or not error.connection_invalidated:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Does what waits, and closes all connections."""
        for together in (self._reads, self._queries, self._writes):
            together.close()
        self.engine.dispose()

    def _sqlite(self, pool_size: int) -> Engine:
        module = sqlite_module()
        engine = sa.create_engine(
            self.url,
            module=module,
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,  # the pages that a connection keeps are good until another one writes
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
        )

        @sa.event.listens_for(engine, "connect")
        def configure(connection: Any, _: object) -> None:
            connection.isolation_level = None  # transactions begin where `begin` below says so
            cursor = connection.cursor()
            _set_journal_mode(cursor, self.journal_mode)
            for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-16384"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @sa.event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            is_write = connection.get_execution_options().get("is_write")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

        return engine

    def _postgresql(self, pool_size: int) -> Engine:
        url = self.url.set(drivername="postgresql+psycopg")
        # The connection that was used last is taken first: it has prepared what is asked now.
        return sa.create_engine(url, pool_size=pool_size, max_overflow=0, pool_use_lifo=True)


def _each(connection: Connection, works: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    """What each of them answers, or its refusal."""
    results = []
    for work in works:
        try:
            results.append(work(connection))
        except Refusal as refusal:
            results.append(refusal)
    return results


def _parsed(url: str) -> sa.URL:
    hint = "use postgresql://user:password@host/name"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise invalid("what names the database is no URL", hint=hint) from None  # and may have a password
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise invalid(f"the database is {parsed.get_backend_name()[:40]!r}, which this server cannot use", hint=hint)
    return parsed


def _set_journal_mode(cursor: Any, mode: str) -> None:
    """Changes the mode if it is another; SQLite does not wait for this by itself where two open a new database."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while cursor.execute("PRAGMA journal_mode").fetchone()[0].upper() != mode:
        try:
            cursor.execute(f"PRAGMA journal_mode={mode}")
        except Exception as error:  # of whichever library this is
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def sqlite_module() -> ModuleType:
    """A SQLite library that is safe with WAL: pysqlite3, which brings its own, else the standard one if it is new.

    Raises:
        RuntimeError: Neither is.
    """
    for name in ("pysqlite3", "sqlite3"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        version = module.sqlite_version_info
        if version >= FIXED_SQLITE[0] or any(version[:2] == line[:2] and version >= line for line in FIXED_SQLITE[1:]):
            return module
    raise RuntimeError(
        "no SQLite without the WAL-reset bug: install pysqlite3, or a Python with SQLite 3.51.3 or later, "
        "or use PostgreSQL (--database-url)"
    )
