"""Pages of other origins: none may call the API, unless the server names them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner
from harness import Account
from starlette.testclient import TestClient
from t9k.aistore.api.app import make_app
from t9k.aistore.api.cors import check_origin
from t9k.aistore.cli import main
from t9k.aistore.services import Services

OURS, OTHER = "https://console.example.com", "https://evil.example.com"


@pytest.fixture
def open_api(services: Services) -> TestClient:
    services.settings = replace(services.settings, cors_origins=(OURS, "http://localhost:3000"))
    return TestClient(make_app(services), raise_server_exceptions=False)


def preflight(api: TestClient, origin: str, method: str = "PATCH", headers: str = "authorization,if-match") -> object:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return api.options("/api/v1/nodes/0123456789abcdefghjk", headers=asked)


def cors_headers(response: object) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control")}  # type: ignore[attr-defined]


def test_nothing_is_allowed_by_default(api: TestClient, ada: Account) -> None:
    response = api.get("/api/v1/session", headers={**ada.headers, "Origin": OURS})
    assert response.status_code == 200
    assert cors_headers(response) == {}
    refused = preflight(api, OURS)
    assert refused.status_code == 405  # type: ignore[attr-defined]
    assert cors_headers(refused) == {}


@pytest.mark.parametrize("origin", [OURS, "http://localhost:3000"])
def test_page_of_an_origin_that_is_named_may_call(open_api: TestClient, ada: Account, origin: str) -> None:
    allowed = preflight(open_api, origin)
    assert allowed.status_code == 200  # type: ignore[attr-defined]
    headers = cors_headers(allowed)
    assert headers["access-control-allow-origin"] == origin
    assert "PATCH" in headers["access-control-allow-methods"]
    assert "authorization" in headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in headers
    response = open_api.get("/api/v1/session", headers={**ada.headers, "Origin": origin})
    assert response.status_code == 200
    found = cors_headers(response)
    assert found["access-control-allow-origin"] == origin
    assert "ETag" in found["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in found
    assert "origin" in response.headers["vary"].lower()
    assert response.headers["x-content-type-options"] == "nosniff"


def test_answer_that_is_a_problem_can_be_read_too(open_api: TestClient) -> None:
    response = open_api.get("/api/v1/session", headers={"Origin": OURS, "Authorization": "Bearer wrong"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == OURS


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        "null",
        f"{OURS}.evil.example",
        "http://console.example.com",
        f"{OURS}:8443",
        OURS.upper(),
        f"{OURS}/",
        "*",
    ],
)
def test_page_of_any_other_origin_may_not(open_api: TestClient, ada: Account, origin: str) -> None:
    refused = preflight(open_api, origin)
    assert refused.status_code == 400  # type: ignore[attr-defined]
    assert "access-control-allow-origin" not in cors_headers(refused)
    response = open_api.get("/api/v1/session", headers={**ada.headers, "Origin": origin})
    assert "access-control-allow-origin" not in cors_headers(response)


def test_method_that_the_api_lacks_is_refused(open_api: TestClient) -> None:
    assert preflight(open_api, OURS, "TRACE").status_code == 400  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://*.example.com",
        "console.example.com",
        "https://console.example.com/",
        "https://console.example.com/app",
        "https://console.example.com:443",
        "http://localhost:80",
        "https://Console.example.com",
        "https://ada@example.com",
        "ftp://example.com",
        "https://",
        "https://example.com:",
        "https://example.com?x",
        "null",
        "",
    ],
)
def test_what_is_no_origin_is_an_error_at_the_start(origin: str, tmp_path: object) -> None:
    with pytest.raises(ValueError, match=r"origin|port"):
        check_origin(origin)
    result = CliRunner().invoke(main, ["--data", f"{tmp_path}/data", "serve", "--cors-origins", origin])
    assert result.exit_code == 2
    assert "--cors-origins" in result.output
