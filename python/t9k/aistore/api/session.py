"""Who am I, and is the server well."""

from __future__ import annotations

from fastapi import APIRouter

from t9k.aistore.api.context import Reader, ServicesDep, Strict
from t9k.aistore.api.problems import responses
from t9k.protocol import PROTOCOL_VERSION

router = APIRouter(tags=["session"])


class Session(Strict):
    """The caller, as the server knows them."""

    user: str
    role: str
    scopes: list[str]
    protocol: int


@router.get("/session", responses=responses())
async def get_session(caller: Reader) -> Session:
    """Tell who the API key belongs to and what it may do."""
    return Session(user=caller.name, role=caller.role, scopes=sorted(caller.scopes), protocol=PROTOCOL_VERSION)


health = APIRouter(tags=["health"])


class Health(Strict):
    """The process answers."""

    status: str


@health.get("/healthz")
async def healthz() -> Health:
    """Tell that the process answers."""
    return Health(status="ok")


@health.get("/readyz", responses=responses())
def readyz(services: ServicesDep) -> Health:
    """Tell that the database answers too."""
    services.database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    return Health(status="ok")
