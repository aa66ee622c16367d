"""How Alembic reaches the database: through the connection settings of `Database`, in a single transaction."""

from alembic import context
from sqlalchemy.engine import Connection

from t9k.aistore.db.database import Database
from t9k.aistore.db.tables import metadata

database: Database = context.config.attributes["database"]


def migrate(connection: Connection) -> None:
    """Runs the migrations that are missing."""
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    context.run_migrations()


database.migrate(migrate)
