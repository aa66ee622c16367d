"""How Alembic reaches the database: through the connection settings of `Database`, in a single transaction."""

from alembic import context
from sqlalchemy.engine import Connection

from t9k.aistore.db.database import Database
from t9k.aistore.db.tables import metadata

database: Database = context.config.attributes["database"]


def migrate(connection: Connection) -> None:
    """Runs the migrations that are missing."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7303014)")  # any number that is ours
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()


database.write(migrate)
