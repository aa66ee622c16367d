"""Runs and batches for tests."""

from __future__ import annotations

from array import array
from typing import Any

from harness import Account
from starlette.testclient import TestClient
from t9k.protocol.metric_batch import NO_EPOCH, Batch, encode_batch


def new_run(api: TestClient, account: Account, client_id: str = "c1", **body: Any) -> str:
    """Id of a new run in the account's tree."""
    placement = {"folder": f"/{account.name}/default", "name": client_id} | body.pop("placement", {})
    document = {"client_id": client_id, "placement": placement, **body}
    response = api.post("/api/v1/runs", json=document, headers=account.headers)
    assert response.status_code == 201, response.text
    return str(response.json()["node"]["id"])


def batch(first: int, count: int, **values: list[float]) -> Batch:
    """Points of steps `first` and on, a second apart."""
    steps = array("q", range(first, first + count))
    times = array("q", (step * 1_000_000 for step in steps))
    columns = {name: array("d", column) for name, column in values.items()}
    return Batch(steps, array("q", [NO_EPOCH]) * count, times, columns)


def put(
    api: TestClient, account: Account, run_id: str, kind: str, sequence: int, content: Batch | bytes, **q: Any
) -> Any:
    """The response to a batch of metrics."""
    data = content if isinstance(content, bytes) else encode_batch(content)
    url = f"/api/v1/runs/{run_id}/metrics/{kind}/{sequence}"
    return api.put(url, content=data, params={"session": "s1"} | q, headers=account.headers)
