"""Runs: their records, metrics, logs, and the edges to what they read and made."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, Table

from t9k.aistore.db.tables.metadata import Id, Json, Number, Text, TimeUs, metadata

_RUN = "runs.node_id"

runs = Table(
    "runs",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("creator_id", ForeignKey("users.id"), nullable=False),
    Column("client_id", Text, nullable=False),  # chosen by the client, so that making a run again makes it once
    Column("state", Text, nullable=False),  # Running, Complete, Failed, Crashed
    Column("started_us", TimeUs, nullable=False),
    Column("ended_us", TimeUs),
    Column("heartbeat_us", TimeUs, nullable=False),
    Column("log_bytes", sa.BigInteger, nullable=False, server_default="0"),
    Column("metadata", Json, nullable=False),
    Column("hparams", Json, nullable=False),
    Column("platform", Json, nullable=False),
    Column("git", Json, nullable=False),
    sa.UniqueConstraint("creator_id", "client_id"),
    Index(
        "ix_runs_alive",
        "heartbeat_us",
        sqlite_where=sa.text("state = 'Running'"),
        postgresql_where=sa.text("state = 'Running'"),
    ),
)

run_params = Table(  # the first leaves of `hparams`, for filters and sorting
    "run_params",
    metadata,
    Column("node_id", ForeignKey(_RUN, ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),  # names with dots between
    Column("number", Number),  # of a number or a truth value
    Column("text", Text),  # of a text, cut to `MAX_PARAM_TEXT_BYTES`
)

metric_types = Table(
    "metric_types",
    metadata,
    Column("node_id", ForeignKey(_RUN, ondelete="CASCADE"), primary_key=True),
    Column("type", Text, primary_key=True),
    Column("points", sa.BigInteger, nullable=False),
    Column("first_step", sa.BigInteger, nullable=False),  # the least of all
    Column("last_step", sa.BigInteger, nullable=False),  # the greatest of all
)

metric_series = Table(  # what is known of each metric without reading its points, for lists, filters and sorting
    "metric_series",
    metadata,
    Column("node_id", ForeignKey(_RUN, ondelete="CASCADE"), primary_key=True),
    Column("type", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("number", sa.Integer, nullable=False),  # of its column in `metric_columns`; counts up in order of appearance
    Column("logged", sa.BigInteger, nullable=False),  # points that have it, as NaN too
    Column("last", Number),  # null is NaN
    Column("last_step", sa.BigInteger, nullable=False),  # of `last`
    Column("last_session", sa.Integer, nullable=False),  # where `last` was logged: session, then sequence
    Column("last_sequence", sa.BigInteger, nullable=False),
    Column("min", Number),  # null if all are NaN
    Column("max", Number),
)

metric_sessions = Table(  # each process that writes to a run counts its batches for itself
    "metric_sessions",
    metadata,
    Column("node_id", ForeignKey(_RUN, ondelete="CASCADE"), primary_key=True),
    Column("session", Text, primary_key=True),
    Column("number", sa.Integer, nullable=False),  # in order of their first batches
)

metric_blocks = Table(  # consecutive batches of a session: one as it came, or several merged
    "metric_blocks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("node_id", ForeignKey(_RUN, ondelete="CASCADE"), nullable=False),
    Column("type", Text, nullable=False),
    Column("session", sa.Integer, nullable=False),
    Column("first_sequence", sa.BigInteger, nullable=False),
    Column("last_sequence", sa.BigInteger, nullable=False),
    Column("level", sa.SmallInteger, nullable=False),  # times merged; `db.metrics.FULL` is never merged again
    Column("points", sa.Integer, nullable=False),
    Column("names", sa.Integer, nullable=False),  # metrics in it: with `points`, how large it is
    Column("first_step", sa.BigInteger, nullable=False),
    Column("last_step", sa.BigInteger, nullable=False),
    Column("batch", sa.LargeBinary),  # the batch as it came, or null: then its columns are in `metric_columns`
    sa.UniqueConstraint("node_id", "type", "session", "first_sequence"),
    Index(
        "ix_metric_blocks_small",  # what compaction looks through
        "node_id",
        "type",
        "session",
        "points",
        sqlite_where=sa.text("level < 9"),
        postgresql_where=sa.text("level < 9"),
    ),
)

metric_columns = Table(
    "metric_columns",
    metadata,
    Column("block_id", ForeignKey("metric_blocks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", sa.Integer, primary_key=True),  # below 0 as `db.metrics` says, else of `metric_series`
    Column("data", sa.LargeBinary, nullable=False),
)

log_parts = Table(
    "log_parts",
    metadata,
    Column("node_id", ForeignKey(_RUN, ondelete="CASCADE"), primary_key=True),
    Column("offset", sa.BigInteger, primary_key=True),
    Column("length", sa.Integer, nullable=False),
    Column("data", sa.LargeBinary, nullable=False),  # zlib
)

# PostgreSQL would try to compress what is compressed, or is so soon.
for _column in (metric_blocks.c.batch, metric_columns.c.data, log_parts.c.data):
    _external = sa.DDL(f"ALTER TABLE {_column.table.name} ALTER COLUMN {_column.name} SET STORAGE EXTERNAL")  # type: ignore[no-untyped-call]
    sa.event.listen(_column.table, "after_create", _external.execute_if(dialect="postgresql"))

edges = Table(
    "edges",
    metadata,
    Column("run_id", ForeignKey(_RUN, ondelete="CASCADE"), primary_key=True),
    Column("side", Text, primary_key=True),  # input, output
    Column("position", sa.Integer, primary_key=True),
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE")),  # or, of what is not in a tree here:
    Column("external_type", Text),
    Column("external_name", Text),
    Index(None, "node_id", "side", "run_id"),
)
