"""Steps of a walk in the tree: nodes made, moved, copied, shared, deleted, and versions named and kept."""

from __future__ import annotations

from typing import Any

import server_steps
from t9k.aistore.tree.access import Access
from t9k.protocol import MAX_PAGE
from tree_model import Node, Refused
from walk import USERS, Walk

NAMES = ("a", "b", "c", "d")
ALIASES = ("best", "prod")
TTL_S = 7 * 86_400
MANY_COPIED = 8


def make_folder(walk: Walk) -> None:
    parent, name = walk.folder(), walk.chance.choice(NAMES)
    user = walk.user(parent)

    def expected() -> None:
        walk.world.need(user, parent, Access.EDIT)
        if walk.world.child(parent, name):
            raise Refused("conflict")

    body = {"path": f"{walk.world.path(parent)}/{name}"}
    made = walk.both(expected, lambda: walk.call(walk.session_of(user), "POST", "/folders", json=body))
    if made is not None:
        walk.world.nodes[made["id"]] = Node(made["id"], parent.id, parent.owner, "Folder", name)


def make_shortcut(walk: Walk) -> None:
    target, parent, name = walk.pick(), walk.folder(), walk.chance.choice(NAMES)
    user = walk.user(parent)
    final: list[Node] = []

    def expected() -> None:
        walk.world.need(user, target, Access.VIEW)
        found = walk.world.followed(user, target)
        if found is None:
            raise Refused("not_found")
        final.append(found)
        walk.world.need(user, parent, Access.EDIT)
        if walk.world.child(parent, name):
            raise Refused("conflict")

    body = {"path": f"{walk.world.path(parent)}/{name}", "target_id": target.id}
    made = walk.both(expected, lambda: walk.call(walk.session_of(user), "POST", "/shortcuts", json=body))
    if made is not None:
        node = Node(made["id"], parent.id, parent.owner, "Shortcut", name, target=final[0].id)
        walk.world.nodes[node.id] = node


def change(walk: Walk) -> None:
    """A rename, a move, or both."""
    node, folder = walk.pick(), walk.folder() if walk.chance.random() < 0.6 else None
    name = walk.chance.choice(NAMES) if folder is None or walk.chance.random() < 0.5 else None
    user = walk.user(node)
    if folder is not None and walk.height(node) + len(walk.world.chain(folder)) > walk.DEEP:
        return

    def expected() -> None:
        walk.world.need(user, node, Access.EDIT)
        walk.world.relocate(user, node, folder, name or node.name)

    body = {"name": name} if name else {}
    body |= {"parent_id": folder.id} if folder else {}
    walk.both(expected, lambda: walk.call(walk.session_of(user), "PATCH", f"/nodes/{node.id}", json=body))


def delete(walk: Walk) -> None:
    node = walk.pick("Artifact") if walk.chance.random() < 0.8 else walk.pick()
    user = walk.user(node)

    def expected() -> None:
        walk.world.need(user, node, Access.EDIT)
        if node.parent is None:
            raise Refused("conflict")
        walk.world.throw_away(node, walk.now_s())

    walk.both(expected, lambda: walk.call(walk.session_of(user), "DELETE", f"/nodes/{node.id}"))


def restore(walk: Walk) -> None:
    if not walk.world.trashed_s:
        return
    node = walk.chance.choice(walk.world.in_trash())
    user, name = walk.user(node), walk.chance.choice((None, *NAMES))

    def expected() -> None:
        world = walk.world
        world.need(user, node, Access.EDIT, in_trash=True)
        assert node.parent is not None
        if not world.is_live(world.nodes[node.parent]):
            raise Refused("conflict")
        world.relocate(user, node, None, name or node.name)
        world.take_back(node)

    body = {"name": name} if name else {}
    walk.both(expected, lambda: walk.call(walk.session_of(user), "POST", f"/trash/{node.id}/restore", json=body))


def purge(walk: Walk) -> None:
    if not walk.world.trashed_s:
        return
    node = walk.chance.choice(walk.world.in_trash())
    user = walk.user(node)

    def expected() -> None:
        walk.world.need(user, node, Access.OWN, in_trash=True)
        walk.world.remove(node)

    walk.both(expected, lambda: walk.call(walk.session_of(user), "DELETE", f"/trash/{node.id}"))
    server_steps.empty_trash(walk)  # what the server does soon by itself


def copy(walk: Walk) -> None:
    node, folder, name = walk.pick(), walk.folder(), walk.chance.choice(NAMES)
    user = walk.user(folder)
    originals = [one for one in walk.world.below(node) if walk.world.is_live(one)]
    if len(originals) > MANY_COPIED or walk.height(node) + len(walk.world.chain(folder)) > walk.DEEP:
        return

    def expected() -> None:
        walk.world.need(user, node, Access.VIEW)
        walk.world.need(user, folder, Access.EDIT)
        if node.parent is None or walk.world.child(folder, name):
            raise Refused("conflict")

    body = {"parent_id": folder.id, "name": name}
    made = walk.both(expected, lambda: walk.call(walk.session_of(user), "POST", f"/nodes/{node.id}/copy", json=body))
    if made is not None:
        adopt_copy(walk, originals, node, made["id"], folder, name)


def adopt_copy(walk: Walk, originals: list[Node], top: Node, made: str, folder: Node, name: str) -> None:
    """Adds what a copy made to the world, by walking both side by side."""
    new_ids = {top.id: made}
    queue = [(top, folder.id, name)]
    for original, parent, copied_name in queue:
        new_id = new_ids[original.id]
        walk.world.nodes[new_id] = Node(new_id, parent, folder.owner, original.kind, copied_name, original.target)
        if original.kind == "Artifact":
            walk.world.versions[new_id] = walk.world.versions[original.id].copy()
        below = [one for one in originals if one.parent == original.id and one is not top]
        if below:
            ids = {one["name"]: one["id"] for one in listed(walk, folder.owner, new_id)}
            new_ids |= {one.id: ids[one.name] for one in below}
            queue += [(one, new_id, one.name) for one in below]


def listed(walk: Walk, user: str, folder_id: str) -> list[dict[str, Any]]:
    path = f"/nodes/{folder_id}/children?limit={MAX_PAGE}"
    found: list[dict[str, Any]] = walk.call(walk.session_of(user), "GET", path)["nodes"]
    return found


def share(walk: Walk) -> None:
    node, who = walk.pick(), walk.chance.choice((*USERS, "@team", ""))
    user, access = walk.user(node), walk.chance.choice(("view", "edit", None))

    def expected() -> None:
        walk.world.need(user, node, Access.OWN)
        if access is not None:
            node.shares[who] = access
        elif node.shares.pop(who, None) is None:
            raise Refused("not_found")

    grantee = {"@team": "group/team", "": "public/everybody"}.get(who, f"user/{who}")
    path = f"/nodes/{node.id}/shares/{grantee}"
    method, body = ("DELETE", None) if access is None else ("PUT", {"access": access})
    walk.both(expected, lambda: walk.call(walk.session_of(user), method, path, json=body))


def change_group(walk: Walk) -> None:
    user, members = walk.chance.choice(USERS), walk.world.groups["@team"]
    walk.call(walk.admin, "DELETE" if user in members else "PUT", f"/groups/team/members/{user}")
    members ^= {user}


def change_domain(walk: Walk) -> None:
    """The administrator lets a user share chunks with others, or with nobody any more."""
    user, shared = walk.chance.choice(USERS), walk.chance.choice(("", "team"))
    walk.call(walk.admin, "PATCH", f"/users/{user}", json={"shares_chunks_in": shared})
    walk.domains[user] = f"shared:{shared}" if shared else walk.accounts[user].caller.user_id


def change_versions(walk: Walk) -> None:
    """An alias is moved or taken away, a version pinned or removed, a retention set."""
    node = walk.pick("Artifact")
    if node.kind != "Artifact":
        return
    user, versions = walk.user(node), walk.world.versions[node.id]
    version, alias = walk.chance.choice(versions.all), walk.chance.choice(ALIASES)
    what = walk.chance.choice(("alias", "alias", "unalias", "pin", "unpin", "remove", "retention"))
    walk.say(f"  {what} {alias} {version.number} of {node.id}")
    at = f"/artifacts/{node.id}"
    requests: dict[str, tuple[str, str, dict[str, Any] | None]] = {
        "alias": ("PUT", f"{at}/aliases/{alias}", {"version": version.number}),
        "unalias": ("DELETE", f"{at}/aliases/{alias}", None),
        "pin": ("PATCH", f"{at}/versions/{version.number}", {"pinned": True}),
        "unpin": ("PATCH", f"{at}/versions/{version.number}", {"pinned": False}),
        "remove": ("DELETE", f"{at}/versions/{version.number}", None),
    }
    keep_last, ttl_s = walk.chance.choice((None, 1, 2)), walk.chance.choice((None, TTL_S))
    requests["retention"] = ("PUT", f"{at}/retention", {"keep_last": keep_last, "ttl_s": ttl_s})

    def expected() -> None:
        walk.world.need(user, node, Access.EDIT)
        if what == "alias":
            versions.aliases[alias] = version.number
        elif what == "unalias":
            if versions.aliases.pop(alias, None) is None:
                raise Refused("not_found")
        elif what == "remove":
            if version.is_pinned or len(versions.all) == 1:
                raise Refused("conflict")
            versions.all.remove(version)
            versions.aliases = {name: at for name, at in versions.aliases.items() if at != version.number}
        elif what == "retention":
            versions.keep_last, versions.ttl_s = keep_last, ttl_s
        else:
            version.is_pinned = what == "pin"

    method, path, body = requests[what]
    walk.both(expected, lambda: walk.call(walk.session_of(user), method, path, json=body))


def look(walk: Walk) -> None:
    """What one user, or nobody, sees of a node: by its id, and in it; and the versions of an artifact."""
    check_view(walk, walk.chance.choice((*USERS, "")), walk.pick())


def check_view(walk: Walk, user: str, node: Node) -> None:
    world, session = walk.world, walk.session_of(user)
    access = world.access(user, node)
    seen = walk.both(
        lambda: world.need(user, node, Access.VIEW), lambda: walk.call(session, "GET", f"/nodes/{node.id}")
    )
    if seen is None:
        return
    assert (seen["path"], seen["access"], seen["owner"]) == (world.path(node), access.name.lower(), node.owner)
    if node.kind == "Folder":
        assert {one["id"] for one in listed(walk, user, node.id)} == {one.id for one in world.children(node)}
    if node.kind == "Artifact":
        versions = world.versions[node.id]
        page = walk.call(session, "GET", f"/artifacts/{node.id}/versions?limit={MAX_PAGE}")["versions"]
        found = [(one["version"], one["manifest_digest"], one["pinned"], sorted(one["aliases"])) for one in page]
        expected = [
            (
                one.number,
                one.manifest,
                one.is_pinned,
                sorted(
                    ["latest"] * (one is versions.latest)
                    + [name for name, number in versions.aliases.items() if number == one.number]
                ),
            )
            for one in reversed(versions.all)
        ]
        assert found == expected


def look_everywhere(walk: Walk) -> None:
    """All nodes by all users; their trash, and what is shared with them."""
    world = walk.world
    for user in (*USERS, ""):
        for node in list(world.nodes.values()):
            check_view(walk, user, node)
    for user in USERS:
        session = walk.session_of(user)
        thrown = walk.call(session, "GET", f"/trash?limit={MAX_PAGE}")["nodes"]
        assert {one["id"] for one in thrown} == {one.id for one in world.in_trash() if one.owner == user}
        shared = walk.call(session, "GET", f"/shared?limit={MAX_PAGE}")["nodes"]
        grantees = {user, *(group for group, members in world.groups.items() if user in members)}
        expected = {
            one.id
            for one in world.nodes.values()
            if one.owner != user and world.is_live(one) and grantees & one.shares.keys()
        }
        assert {one["id"] for one in shared} == expected
