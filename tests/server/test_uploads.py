"""Uploads and downloads through the API, step by step."""

from __future__ import annotations

from harness import Account
from starlette.testclient import TestClient
from uploads import Content, Uploader, digest, noise

CONTENT = Content(
    {
        "weights.bin": [noise(1, 70_000), noise(2, 80_000), noise(3, 5)],
        "small.txt": [b"small"],
        "empty": [],
        "twice.bin": [noise(1, 70_000), noise(1, 70_000)],
    }
)


def test_upload_then_download_gives_the_same_bytes(api: TestClient, ada: Account) -> None:
    uploader = Uploader(api, ada)
    made = uploader.upload(CONTENT, metadata={"labels": ["x"], "description": "y"}, aliases=["best"])
    assert made["created"]
    assert made["version"] == 1
    assert made["node"]["path"] == "/ada/default/a"
    assert made["node"]["labels"] == ["x"]
    assert made["node"]["description"] == "y"
    found = uploader.download(made["node"]["id"])
    assert found == {name: b"".join(chunks) for name, chunks in CONTENT.objects.items()}
    artifact = uploader.call("GET", "/artifacts", params={"path": "/ada/default/a:best"}).json()
    assert artifact["aliases"] == ["latest", "best"]
    assert artifact["manifest_digest"] == digest(CONTENT.manifest).hex()
    assert artifact["state"] == "checking"
