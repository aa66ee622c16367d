"""List a folder of 100,000 nodes over HTTP: any page within 30 ms, without growth with its depth.

`python benches/server_listing.py [postgresql://…]`; SQLite without an address. Prints milliseconds, minimum and median
of a page of 100 nodes at several depths in each order, taken in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from starlette.testclient import TestClient
from t9k.aistore.api.app import make_app
from t9k.aistore.db import listing
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings

PAGE, STRIDE, ROUNDS = 100, 1000, 15
DEPTHS = (0, 10, 50, 99)  # in strides
TARGET_MS = 30


def main() -> None:
    """Fills a database, walks to the depths, then measures."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))
    from harness import make_account
    from test_listing_plans import fill

    with tempfile.TemporaryDirectory() as directory:
        url = sys.argv[1] if len(sys.argv) > 1 else None
        services = open_services(Settings(data_dir=Path(directory), database_url=url))
        account = make_account(services.database, "bench")
        folder = fill(services.database, account, 100_000, 0)
        client = TestClient(make_app(services), headers=account.headers)
        print(f"{'order':8} {'after':>7} {'min ms':>7} {'median ms':>10}")
        for order in listing.ORDERS:
            cursors = walk(client, folder, order)
            taken: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
            for _ in range(ROUNDS):
                for depth in DEPTHS:
                    began = time.perf_counter()
                    page(client, folder, order, cursors[depth])
                    taken[depth].append(1000 * (time.perf_counter() - began))
            for depth in DEPTHS:
                print(f"{order:8} {depth * STRIDE:7} {min(taken[depth]):7.1f} {statistics.median(taken[depth]):10.1f}")
        services.close()
    print(f"target: <= {TARGET_MS} ms at every depth")


def walk(client: TestClient, folder: str, order: str) -> dict[int, str | None]:
    """The cursors of pages by depth, found by walking through them."""
    cursors: dict[int, str | None] = {0: None}
    cursor: str | None = None
    for depth in range(1, max(DEPTHS) + 1):
        cursor = page(client, folder, order, cursor, STRIDE)
        if depth in DEPTHS:
            cursors[depth] = cursor
    return cursors


def page(client: TestClient, folder: str, order: str, cursor: str | None, limit: int = PAGE) -> str | None:
    """Fetches one page; answers the next one's cursor."""
    params = {"sort": order, "limit": str(limit)} | ({"cursor": cursor} if cursor else {})
    response = client.get(f"/api/v1/nodes/{folder}/children", params=params)
    document = response.json()
    assert len(document["nodes"]) == limit, response.text
    following: str | None = document["next"]
    return following


main()
