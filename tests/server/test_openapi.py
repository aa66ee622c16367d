"""The server's description of itself: checked in, and true for made-up requests of every role.

`AISTORE_FUZZ_EXAMPLES` sets how many requests each operation gets from each role (schemathesis), and
`AISTORE_FUZZ_DATABASE=postgresql` has them answered from PostgreSQL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
import sqlalchemy as sa
from harness import make_account
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient
from t9k.aistore.api.app import document, make_app
from t9k.aistore.db.tables.accounts import api_keys
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from t9k.protocol import PACK_TYPE

schemathesis.serializer.alias(PACK_TYPE, "application/octet-stream")

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"
EXAMPLES = int(os.environ.get("AISTORE_FUZZ_EXAMPLES", "40"))
TIMEOUT_S = 600.0
"""The usual 10 s are short for a machine that others use too."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def test_document_is_the_one_checked_in(api: TestClient) -> None:
    """`make openapi` writes it anew: a change of the protocol is seen in a review."""
    assert api.get("/api/v1/openapi.json").json() == json.loads(SNAPSHOT.read_text())


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Services]:
    """A server whose data live through all requests, so that they meet what earlier ones made."""
    is_postgresql = os.environ.get("AISTORE_FUZZ_DATABASE") == "postgresql"
    url = request.getfixturevalue("postgresql").format("postgres") if is_postgresql else None
    services = open_services(Settings(data_dir=tmp_path_factory.mktemp("fuzzed"), database_url=url))
    yield services
    services.close()


@pytest.fixture(scope="module")
def roles(fuzzed: Services) -> dict[str, dict[str, str]]:
    """What authenticates each role."""
    accounts = {name: make_account(fuzzed.database, name, name) for name in ("admin", "user")}
    revoked = make_account(fuzzed.database, "revoked")
    query = sa.update(api_keys).where(api_keys.c.id == revoked.caller.key_id).values(revoked_us=1)
    fuzzed.database.write(lambda connection: connection.execute(query))
    return {"anonymous": {}, "revoked": revoked.headers, **{name: one.headers for name, one in accounts.items()}}


@pytest.fixture(scope="module")
def described(fuzzed: Services) -> schemathesis.BaseSchema:
    """The document of the fuzzed server."""
    return from_asgi("/api/v1/openapi.json", make_app(fuzzed))


OPERATIONS = [(path, method) for path, item in document()["paths"].items() for method in item]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: part)
def test_made_up_requests_are_answered_as_described(
    path: str, method: str, described: schemathesis.BaseSchema, roles: dict[str, dict[str, str]]
) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=described[path][method].as_strategy())
    def try_all(case: schemathesis.Case) -> None:
        for headers in roles.values():
            case.validate_response(case.call(headers=headers, timeout=TIMEOUT_S), checks=CHECKS)

    try_all()
