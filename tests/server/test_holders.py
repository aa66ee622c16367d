"""Which artifacts have an object, and who is told."""

from __future__ import annotations

from typing import Any

import pytest
from t9k.aistore.artifacts import versions
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.services import Services
from uploads import Content, Uploader, digest, noise, table_of

WEIGHTS, LICENSE = noise("weights", 5000), b"license"


def upload(uploader: Uploader, name: str, *contents: bytes) -> Any:
    folder = f"/{uploader.account.name}/default"
    place = {"folder": folder, "name": name, "alternative_name": None, "conflict_strategy": "error"}
    files = {f"{number}.bin": [content] for number, content in enumerate(contents)}
    return uploader.upload(Content(files), placement=place)["node"]


def held(uploader: Uploader, content: bytes, **query: Any) -> tuple[list[tuple[str, int]], bool]:
    response = uploader.call("GET", f"/objects/{digest(content).hex()}/artifacts", params=query)
    assert response.status_code == 200, response.text
    found = response.json()
    return [(one["node"]["path"], one["version"]) for one in found["artifacts"]], found["truncated"]


def test_object_is_found_in_every_artifact_with_its_newest_version(uploader: Uploader) -> None:
    first = upload(uploader, "first", WEIGHTS, LICENSE)
    upload(uploader, "second", WEIGHTS)
    for content in ({"again": [WEIGHTS]}, {"else": [b"else"]}):
        uploader.upload(Content(content), artifact_id=first["id"])
    assert held(uploader, WEIGHTS) == ([("/ada/default/first", 2), ("/ada/default/second", 1)], False)
    assert held(uploader, LICENSE) == ([("/ada/default/first", 1)], False)
    assert held(uploader, b"nowhere") == ([], False)


def test_others_are_told_of_what_they_may_see_only(uploader: Uploader, other: Uploader) -> None:
    hidden, shown = upload(uploader, "hidden", WEIGHTS), upload(uploader, "shown", WEIGHTS, LICENSE)
    assert held(other, WEIGHTS) == ([], False)
    uploader.call("PUT", f"/nodes/{shown['id']}/shares/user/bob", json={"access": "view"})
    assert held(other, WEIGHTS) == ([("/ada/default/shown", 1)], False)
    uploader.call("DELETE", f"/nodes/{shown['id']}")
    assert held(other, WEIGHTS) == ([], False)
    uploader.call("PUT", f"/nodes/{hidden['id']}/shares/public/everybody", json={"access": "view"})
    assert held(other, WEIGHTS) == ([("/ada/default/hidden", 1)], False)


def test_an_answer_has_an_end(uploader: Uploader, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        upload(uploader, name, LICENSE)
    assert held(uploader, LICENSE, limit=2) == ([("/ada/default/a", 1), ("/ada/default/b", 1)], True)
    assert held(uploader, LICENSE, limit=3)[1] is False
    monkeypatch.setattr(versions, "MAX_HOLDERS", 2)
    assert held(uploader, LICENSE)[1] is True


def test_object_that_is_not_what_it_was_called_is_told_to_nobody(uploader: Uploader, services: Services) -> None:
    chunks = [noise(1, 900), noise(2, 900)]
    content = b"".join(chunks)
    uploader.send(chunks)
    lie = Content({"x": chunks}, {digest(content): table_of(chunks[::-1])})
    assert uploader.commit(lie).status_code == 201
    check_objects(services.database, services.blobs)
    assert held(uploader, content) == ([], False)
