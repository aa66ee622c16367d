"""The tree of nodes in plain dictionaries, and its rules said once more, as simply as can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from t9k.aistore.tree.access import Access


@dataclass
class Node:
    """What the model knows of a node."""

    id: str
    parent: str | None
    owner: str
    kind: str
    name: str
    target: str | None = None
    in_trash: bool = False
    is_gone: bool = False
    shares: dict[str, str] = field(default_factory=dict)  # access by name of user, `@group`, or "" for the public


class Refused(Exception):
    """The kind of refusal that the model expects."""


class Model:
    """All nodes, and the rules of the tree said once more, as simply as can be."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.groups: dict[str, set[str]] = {}  # members by `@group`

    def chain(self, node: Node) -> list[Node]:
        found = [node]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found

    def is_live(self, node: Node) -> bool:
        return not any(one.in_trash or one.is_gone for one in self.chain(node))

    def path(self, node: Node) -> str:
        return "/" + "/".join(one.name for one in reversed(self.chain(node)))

    def access(self, user: str, node: Node) -> Access:
        if node.owner == user:
            return Access.OWN
        grantees = {"", user, *(group for group, members in self.groups.items() if user in members)}
        given = [access for one in self.chain(node) for who, access in one.shares.items() if who in grantees]
        is_named = bool(user)  # who has no name changes nothing
        return Access.EDIT if "edit" in given and is_named else Access.VIEW if given else Access.NONE

    def need(self, user: str, node: Node, need: Access, *, in_trash: bool = False) -> None:
        is_here = node.in_trash if in_trash else self.is_live(node)
        gone = any(one.is_gone for one in self.chain(node))
        if gone or not is_here or self.access(user, node) == Access.NONE:
            raise Refused("not_found")
        if self.access(user, node) < need:
            raise Refused("auth")

    def children(self, folder: Node) -> list[Node]:
        return [one for one in self.nodes.values() if one.parent == folder.id and not one.in_trash and not one.is_gone]

    def child(self, folder: Node, name: str) -> Node | None:
        return next((one for one in self.children(folder) if one.name == name), None)

    def below(self, node: Node) -> Iterator[Node]:
        """The node and all below it, in the trash or not."""
        yield node
        for one in list(self.nodes.values()):
            if one.parent == node.id:
                yield from self.below(one)

    def relocate(self, user: str, node: Node, folder: Node | None, name: str) -> None:
        """Raises what a move or rename is refused with."""
        if node.parent is None:
            raise Refused("conflict")
        if folder is not None and folder.id != node.parent:
            self.need(user, folder, Access.EDIT)
        where = folder or self.nodes[node.parent]
        if where.kind != "Folder":
            raise Refused("conflict")
        there = self.child(where, name)
        if there is not None and there.id != node.id:
            raise Refused("conflict")
        if node in self.chain(where):
            raise Refused("invalid_input")
        if where.owner != node.owner:
            if self.access(user, node) < Access.OWN:
                raise Refused("auth")
            for one in self.below(node):
                one.owner = where.owner
        node.parent, node.name = where.id, name

    def followed(self, user: str, node: Node) -> Node | None:
        """What a node stands for: itself, or what a shortcut leads to if the user may see both."""
        if node.kind != "Shortcut":
            return node
        target = self.nodes.get(node.target or "")
        is_seen = target is not None and all(
            self.is_live(one) and self.access(user, one) > Access.NONE for one in (node, target)
        )
        return target if is_seen else None
