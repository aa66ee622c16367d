"""What users own on a server, in plain dictionaries: the tree of nodes, and the versions of its artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from t9k.aistore.tree.access import Access
from tree_model import Model, Node, Refused

Content = dict[str, tuple[bytes, bool] | None]
"""As `trees.contents` reads it from a directory."""


@dataclass
class Version:
    """A version of an artifact: its content never changes."""

    number: int
    content: Content
    manifest: str
    domain: str
    made_s: float
    is_pinned: bool = False


@dataclass
class Versions:
    """All versions of one artifact, the oldest first, and what names and keeps them."""

    all: list[Version] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    highest: int = 1  # number that any of them has or had
    keep_last: int | None = None
    ttl_s: int | None = None

    def add(self, version: Version) -> None:
        self.all.append(version)
        self.highest = version.number

    @property
    def latest(self) -> Version:
        return self.all[-1]

    def number(self, number: int) -> Version | None:
        return next((one for one in self.all if one.number == number), None)

    def expired(self, now_s: float) -> list[Version]:
        """What the retention lets go."""
        kept = {id(one) for one in self.all if one.is_pinned or one.number in self.aliases.values()}
        behind = self.all[: -self.keep_last] if self.keep_last is not None else []
        old = [one for one in self.all if self.ttl_s is not None and one.made_s < now_s - self.ttl_s]
        return [one for one in self.all[:-1] if id(one) not in kept and (one in behind or one in old)]

    def copy(self) -> Versions:
        """Those of a copied artifact: with the same numbers, names and ages."""
        return replace(self, all=[replace(one) for one in self.all], aliases=dict(self.aliases))


class World(Model):
    """The tree and its artifacts. Times are of the walk's clock, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, Versions] = {}
        self.trashed_s: dict[str, float] = {}

    def at(self, user: str, names: list[str]) -> tuple[Node | None, list[str]]:
        """The last node on a path that is there, and the names that are missing after it: shortcuts are followed."""
        node = next((one for one in self.nodes.values() if one.parent is None and one.name == names[0]), None)
        if node is None:
            return None, names
        for index, name in enumerate(names[1:], 1):
            folder = self.followed(user, node)
            below = None if folder is None else self.child(folder, name)
            if below is None:
                return folder, names[index:]
            node = below
        return node, []

    def folder_for(self, user: str, path: str, *, make: bool) -> tuple[Node, list[str]]:
        """The folder that a new node goes to, and the names of those that are made for it."""
        node, missing = self.at(user, path[1:].split("/"))
        node = node and self.followed(user, node)
        if node is None:
            raise Refused("not_found")
        self.need(user, node, Access.VIEW if missing and not make else Access.EDIT)
        if missing and not make:
            raise Refused("not_found")
        if node.kind != "Folder":
            raise Refused("conflict")
        return node, missing

    def throw_away(self, node: Node, now_s: float) -> None:
        node.in_trash = True
        self.trashed_s[node.id] = now_s

    def take_back(self, node: Node) -> None:
        node.in_trash = False
        del self.trashed_s[node.id]

    def remove(self, node: Node) -> None:
        """For good, with all below it."""
        for one in list(self.below(node)):
            self.nodes.pop(one.id, None)
            self.versions.pop(one.id, None)
            self.trashed_s.pop(one.id, None)

    def in_trash(self) -> list[Node]:
        return [self.nodes[node_id] for node_id in self.trashed_s]

    def live(self, *kinds: str) -> list[Node]:
        return [node for node in self.nodes.values() if node.kind in kinds and self.is_live(node)]

    def artifacts(self) -> Iterator[tuple[Node, Versions]]:
        """All artifacts, those in the trash too."""
        for node_id, versions in self.versions.items():
            yield self.nodes[node_id], versions

    def manifests(self) -> set[tuple[str, str]]:
        """What the server must keep: domain and digest."""
        return {(one.domain, one.manifest) for versions in self.versions.values() for one in versions.all}
