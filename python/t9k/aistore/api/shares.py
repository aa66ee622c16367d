"""Routes of sharing."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from sqlalchemy.engine import Connection

from t9k.aistore.api.context import Reader, ServicesDep, Strict, Writer
from t9k.aistore.api.nodes import Cursor, Limit, NodeId, NodePage, node_model
from t9k.aistore.api.problems import responses
from t9k.aistore.clock import iso
from t9k.aistore.tree import sharing

router = APIRouter(tags=["sharing"])

GranteeKind = Literal["user", "group", "public"]
Grantee = Annotated[
    str, Path(pattern=r"^[a-z0-9._-]{1,64}$", description="Name of a user or group; `everybody` for the public.")
]


class Share(Strict):
    """Who may do what, by a share of `node_id`: the node itself or one above it."""

    grantee_kind: GranteeKind
    grantee: str
    access: Literal["view", "edit"]
    node_id: str
    created: str


class Shares(Strict):
    """The shares that reach a node, its own first."""

    shares: list[Share]


class NewShare(Strict):
    """What the grantee may do."""

    access: Literal["view", "edit"]


@router.get("/nodes/{node_id}/shares", responses=responses())
def list_shares(caller: Reader, services: ServicesDep, node_id: NodeId) -> Shares:
    """List who a node is shared with."""
    return services.database.read(lambda connection: _shares(sharing.shares_of(connection, caller, node_id)))


@router.put("/nodes/{node_id}/shares/{grantee_kind}/{grantee}", responses=responses())
def put_share(
    caller: Writer, services: ServicesDep, node_id: NodeId, grantee_kind: GranteeKind, grantee: Grantee, body: NewShare
) -> Shares:
    """Share a node, or change how it is shared."""

    def work(connection: Connection) -> list[sharing.Share]:
        sharing.grant(connection, caller, node_id, grantee_kind, grantee, body.access)
        return sharing.shares_of(connection, caller, node_id)

    return _shares(services.database.write(work))


@router.delete("/nodes/{node_id}/shares/{grantee_kind}/{grantee}", status_code=204, responses=responses())
def delete_share(
    caller: Writer, services: ServicesDep, node_id: NodeId, grantee_kind: GranteeKind, grantee: Grantee
) -> None:
    """End a share of the node itself."""
    services.database.write(lambda connection: sharing.revoke(connection, caller, node_id, grantee_kind, grantee))


@router.get("/shared", responses=responses())
def list_shared(caller: Reader, services: ServicesDep, limit: Limit = 100, cursor: Cursor = None) -> NodePage:
    """List what others share with the caller and their groups, the newest node first."""
    page = services.database.read(
        lambda connection: sharing.shared_with(connection, caller, limit=limit, cursor=cursor)
    )
    return NodePage(nodes=[node_model(seen) for seen in page.nodes], next=page.next)


def _shares(found: list[sharing.Share]) -> Shares:
    return Shares(
        shares=[
            Share(
                grantee_kind=share.grantee_kind,  # type: ignore[arg-type]
                grantee=share.grantee,
                access=share.access,  # type: ignore[arg-type]
                node_id=share.node_id,
                created=iso(share.created_us) or "",
            )
            for share in found
        ]
    )
