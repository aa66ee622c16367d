"""Steps of a walk that move bytes: artifacts made, uploaded, loaded, and what is killed or goes on at the same time."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import server_steps
import tree_steps
from machines import Child, Local, Machine, die_at_request
from t9k import em
from t9k.aistore.tree.access import Access
from t9k.em import _engine
from t9k.em.client.placement import Target
from t9k.em.client.session import Session
from t9k.em.errors import EmError
from t9k.em.transfer.download import download_artifact
from t9k.em.transfer.partial import RemoteFiles
from t9k.em.transfer.upload import upload_artifact
from tree_model import Node, Refused
from trees import contents
from walk import Walk
from world import Version, Versions

NAMES = ("a", "b", "c")
STRATEGIES = ("new", "skip", "error", "replace")
MANY_LOCAL = 6


def add_some(walk: Walk, local: Local) -> None:
    for _ in range(walk.chance.randint(1, 4)):
        data = walk.chance.choice(walk.pool)
        path = walk.chance.choice(("x", "y", "d/x", "d/y", "d/e/z"))
        source = walk.directory / "source"
        source.write_bytes(data)
        is_executable = walk.chance.random() < 0.1
        source.chmod(0o755 if is_executable else 0o644)
        local.artifact.add_file(str(source), path)
        local.content[path] = (data, is_executable)
        source.unlink()  # or the next one would be written into a file that the store may share


def make(walk: Walk) -> None:
    """A new artifact, or more files in one that is there."""
    machine = walk.machine()
    assert machine is not None
    if walk.chance.random() < 0.1:
        walk.pool[walk.chance.randrange(len(walk.pool))] = walk.new_bytes()
    if machine.artifacts and walk.chance.random() < 0.3:
        local = walk.chance.choice(machine.artifacts)
    else:
        local = Local(em.create_artifact(walk.chance.choice(NAMES)), {})
        machine.artifacts.append(local)
    add_some(walk, local)
    if len(machine.artifacts) > MANY_LOCAL:
        forget(walk, machine)


def forget(walk: Walk, machine: Machine | None = None) -> None:
    """A local artifact is removed; its objects stay in the store until `collect_local`."""
    machine = machine or walk.machine(with_artifacts=True)
    if machine is not None:
        local = machine.artifacts.pop(walk.chance.randrange(len(machine.artifacts)))
        shutil.rmtree(local.artifact.local)


def collect_local(walk: Walk) -> None:
    machine = walk.machine()
    assert machine is not None
    if os.path.isdir(machine.store):
        _engine.gc(machine.store, 0, False)
    look_local(walk, machine)


def look_local(walk: Walk, machine: Machine | None = None) -> None:
    machine = machine or walk.machine(with_artifacts=True)
    for local in machine.artifacts if machine is not None else ():
        assert contents(local.artifact.local) == local.content


def upload(walk: Walk) -> None:
    """One artifact to a folder, by a path that may lead through a shortcut or to what is not there."""
    machine = walk.machine(with_artifacts=True)
    if machine is None:
        return
    local = walk.chance.choice(machine.artifacts)
    strategy = walk.chance.choice(STRATEGIES)
    shortcuts = walk.world.live("Shortcut")
    through = walk.chance.choice(shortcuts) if shortcuts and walk.chance.random() < 0.2 else walk.folder()
    path = walk.world.path(through) + walk.chance.choice(("", "", "", f"/n{walk.number}", f"/n{walk.number}/m"))
    target = Target(path, walk.chance.random() < 0.7, strategy)
    walk.say(f"  {machine.user} {local.artifact.name} to {target}")
    wish: dict[str, Any] = {}

    def expected() -> None:
        artifact, user = local.artifact, machine.user
        if strategy in ("skip", "error"):  # asked before anything is sent
            there, missing = walk.world.at(user, [*path[1:].split("/"), artifact.name])
            if there and not missing and walk.world.access(user, there) > Access.NONE:
                if strategy == "error" or there.kind != "Artifact":
                    raise Refused("conflict")
                wish["skipped"] = there.id
                return
        folder, missing = walk.world.folder_for(user, path, make=target.make_folder)
        wish["folder"], wish["missing"], wish["name"] = folder, missing, artifact.name
        there = None if missing else walk.world.child(folder, artifact.name)
        if there is None:
            return
        if strategy == "new":
            wish["name"] = artifact.alternative_name
            if walk.world.child(folder, artifact.alternative_name):
                raise Refused("conflict")
        elif strategy in ("skip", "error") or there.kind != "Artifact":
            raise Refused("conflict")
        else:
            wish["replaced"] = there

    sent = walk.both(expected, lambda: upload_artifact(machine.session, local.artifact, target))
    if sent is None:
        return
    assert sent.is_created == ("skipped" not in wish)
    if not sent.is_created:
        assert sent.node_id == wish["skipped"]
        return
    if "replaced" in wish:
        walk.world.throw_away(wish["replaced"], walk.now_s())
    folder = wish["folder"]
    for name in wish["missing"]:
        made = walk.find(folder.owner, f"{walk.world.path(folder)}/{name}")
        walk.world.nodes[made] = Node(made, folder.id, folder.owner, "Folder", name)
        folder = walk.world.nodes[made]
    know(walk, machine, local, sent.node_id, folder, wish["name"])


def know(walk: Walk, machine: Machine, local: Local, node_id: str, folder: Node, name: str) -> None:
    """A new artifact on the server."""
    assert node_id not in walk.world.nodes
    walk.world.nodes[node_id] = Node(node_id, folder.id, folder.owner, "Artifact", name)
    walk.world.versions[node_id] = Versions([version(walk, machine, local, 1)])


def version(walk: Walk, machine: Machine, local: Local, number: int) -> Version:
    digest = _engine.manifest_digest(local.artifact.local)
    return Version(number, dict(local.content), digest, walk.domains[machine.user], walk.now_s())


def upload_version(walk: Walk) -> None:
    machine, node = walk.machine(with_artifacts=True), walk.pick("Artifact")
    if machine is None:
        return
    local = walk.chance.choice(machine.artifacts)

    def expected() -> None:
        walk.world.need(machine.user, node, Access.EDIT)
        if node.kind != "Artifact":
            raise Refused("not_found")

    sent = walk.both(expected, lambda: upload_artifact(machine.session, local.artifact, Target(), version_of=node.id))
    if sent is None:
        return
    versions = walk.world.versions[node.id]
    made = version(walk, machine, local, versions.highest + 1)
    assert sent.is_created == (made.manifest != versions.latest.manifest)
    if sent.is_created:
        versions.add(made)


def load(walk: Walk) -> None:
    """By its path, a name of a version, or in parts; by its owner, by others, and by nobody."""
    machine, node = walk.machine(), walk.pick("Artifact", "Artifact", "Shortcut")
    assert machine is not None
    session = machine.session if walk.chance.random() < 0.9 else walk.anonymous
    path = walk.world.path(node)
    there, missing = walk.world.at(
        session.user, path[1:].split("/")
    )  # it may be another one, if the node is in the trash
    target = None if there is None or missing else walk.world.followed(session.user, there)
    versions = Versions() if target is None else walk.world.versions.get(target.id, Versions())
    named: list[tuple[str, Version | None]] = [("", versions.all[-1] if versions.all else None)]
    named += [(f":{one.number}", one) for one in versions.all]
    named += [(f"@{one.manifest[:16]}", one) for one in versions.all]
    named += [(f":{alias}", versions.number(number)) for alias, number in versions.aliases.items()]
    named += [(":latest", named[0][1]), (":none", None), (":999", None)]
    suffix, version = walk.chance.choice(named)
    walk.say(f"  {session.user or 'nobody'} {path}{suffix}")

    def expected() -> None:
        if target is None:
            raise Refused("not_found")
        walk.world.need(session.user, target, Access.VIEW)
        if version is None:
            raise Refused("not_found")

    load_it = load_parts if walk.chance.random() < 0.3 else load_whole
    walk.both(expected, lambda: load_it(walk, machine, session, path + suffix, version))


def load_whole(walk: Walk, machine: Machine, session: Session, path: str, version: Version | None) -> bool:
    loaded = download_artifact(session, path)
    assert version is not None
    assert contents(loaded.local) == version.content
    for local in machine.artifacts:
        if local.artifact.local == loaded.local:
            local.artifact = loaded
            break
    else:
        machine.artifacts.append(Local(loaded, dict(version.content)))
        if len(machine.artifacts) > MANY_LOCAL:
            forget(walk, machine)
    return True


def load_parts(walk: Walk, machine: Machine, session: Session, path: str, version: Version | None) -> bool:
    files = RemoteFiles.at(session, path)
    assert version is not None
    assert set(files.entries) == set(version.content)
    name = walk.chance.choice(sorted(version.content))
    data, _ = version.content[name] or (b"", False)
    start = walk.chance.randint(0, len(data))
    with files.open(name) as file:
        file.seek(start)
        assert file.read(5_000) == data[start : start + 5_000]
    into = walk.directory / "parts"
    files.download(str(into), [name], None)
    assert (into / name).read_bytes() == data
    shutil.rmtree(into)
    return True


def killed_upload(walk: Walk) -> None:
    """The client dies at one of its requests: the artifact is there whole or not at all, and the next one goes."""
    machine = walk.machine(with_artifacts=True)
    if machine is None:
        return
    local, folder = walk.chance.choice(machine.artifacts), walk.folder()
    if folder.owner != machine.user:
        return
    number, is_answered = walk.chance.randint(1, 5), walk.chance.random() < 0.5
    walk.say(f"  at request {number}, answered: {is_answered}")
    target = Target(walk.world.path(folder))

    def work() -> Any:
        die_at_request(number, is_answered=is_answered)
        return upload_artifact(machine.session, local.artifact, target)

    result = Child(work).join()
    local.artifact = em.load_artifact(local.artifact.local)
    if isinstance(result, EmError):
        assert result.kind == "conflict", result
        assert walk.world.child(folder, local.artifact.alternative_name)
    else:
        adopt(walk, machine, local, folder, None if result is None else result.node_id)


def adopt(walk: Walk, machine: Machine, local: Local, folder: Node, node_id: str | None) -> None:
    """Looks whether an upload whose end nobody saw has made a node, which it may once; what is there must be right."""
    page = walk.call(walk.session_of(folder.owner), "GET", f"/nodes/{folder.id}/children?limit=1000")
    found = [node for node in page["nodes"] if node["id"] not in walk.world.nodes]
    names = [local.artifact.alternative_name if walk.world.child(folder, local.artifact.name) else local.artifact.name]
    assert [node["name"] for node in found] in ([], names)
    assert node_id in ([None] if not found else [None, found[0]["id"]])
    if found:
        know(walk, machine, local, found[0]["id"], folder, found[0]["name"])


def together(walk: Walk) -> None:
    """Several machines upload and load at once, while garbage is collected on both sides and time passes."""
    machines = [one for one in walk.machines if one.artifacts]
    walk.chance.shuffle(machines)
    uploads: list[tuple[Machine, Local, Node, Child]] = []
    kills = walk.chance.random() < 0.02
    others = []
    for machine in machines[:3]:
        machine.enter()
        local = walk.chance.choice(machine.artifacts)
        folder = next(one for one in walk.world.live("Folder") if one.parent is None and one.owner == machine.user)
        target = Target(f"{walk.world.path(folder)}/t{walk.number}", True)
        args = (machine.session, local.artifact, target)
        uploads.append((machine, local, folder, Child(lambda args=args: upload_artifact(*args))))  # type: ignore[misc]
        if walk.chance.random() < 0.5:
            others.append(Child(lambda store=machine.store: _engine.gc(store, 0, False)))  # type: ignore[misc]
    if kills:
        walk.say("  and the server is killed")
        time.sleep(walk.chance.uniform(0, 0.05))
        server_steps.restart(walk, kill=True)
    else:
        tree_steps.purge(walk)
        server_steps.pass_time(walk)
        server_steps.collect_garbage(walk)
    for child in others:
        assert not isinstance(child.join(), EmError)
    for machine, local, folder, child in uploads:
        result = child.join()
        assert not isinstance(result, EmError), result
        made = walk.find(machine.user, f"{walk.world.path(folder)}/t{walk.number}")
        if made not in walk.world.nodes:
            walk.world.nodes[made] = Node(made, folder.id, folder.owner, "Folder", f"t{walk.number}")
        where = walk.world.nodes[made]
        name = result.path.rpartition("/")[2]
        is_taken = walk.world.child(where, local.artifact.name) is not None
        assert name in (local.artifact.name, local.artifact.alternative_name)
        assert is_taken or name == local.artifact.name or waits_for_name(walk, uploads, machine, local)
        know(walk, machine, local, result.node_id, where, name)
    look_local(walk, machines[0] if machines else None)


def waits_for_name(walk: Walk, uploads: list[Any], machine: Machine, local: Local) -> bool:
    """Whether another upload of the same user at the same time may have taken the name."""
    return any(
        one.user == machine.user and one is not machine and other.artifact.name == local.artifact.name
        for one, other, *_ in uploads
    )


def load_all(walk: Walk) -> None:
    """Every version of every artifact, by its owner, to machines that have nothing."""
    for machine in walk.machines:
        shutil.rmtree(machine.home, ignore_errors=True)
        machine.artifacts.clear()
    for node, versions in walk.world.artifacts():
        if walk.world.is_live(node):
            machine = next(one for one in walk.machines if one.user == node.owner)
            machine.enter()
            for version in versions.all:
                path = f"{walk.world.path(node)}:{version.number}"
                load_whole(walk, machine, machine.session, path, version)
