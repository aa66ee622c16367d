"""Routes of the trash."""

from __future__ import annotations

from fastapi import APIRouter, Response
from sqlalchemy.engine import Connection

from t9k.aistore.api.context import Reader, ServicesDep, Strict, Writer
from t9k.aistore.api.nodes import Cursor, GivenId, Limit, Node, NodeId, NodePage, answer, node_model
from t9k.aistore.api.problems import responses
from t9k.aistore.tree import trash
from t9k.aistore.tree.views import NodeView, view_of

router = APIRouter(tags=["trash"])


class Restore(Strict):
    """Where a node goes; without these to where it was."""

    parent_id: GivenId | None = None
    name: str | None = None


@router.get("/trash", responses=responses())
def list_trash(caller: Reader, services: ServicesDep, limit: Limit = 100, cursor: Cursor = None) -> NodePage:
    """List what was deleted from the caller's tree, the latest first."""
    page = services.database.read(lambda connection: trash.trash_page(connection, caller, limit=limit, cursor=cursor))
    return NodePage(nodes=[node_model(seen) for seen in page.nodes], next=page.next)


@router.post("/trash/{node_id}/restore", responses=responses(409))
def restore_node(
    caller: Writer, services: ServicesDep, response: Response, node_id: NodeId, body: Restore | None = None
) -> Node:
    """Take a node out of the trash, to where it was or to another folder or name."""
    wanted = body or Restore()

    def work(connection: Connection) -> NodeView:
        trash.restore(connection, caller, node_id, parent_id=wanted.parent_id, name=wanted.name)
        return view_of(connection, caller, node_id)

    return answer(response, services.database.write(work))


@router.delete("/trash/{node_id}", status_code=204, responses=responses())
def purge_node(caller: Writer, services: ServicesDep, node_id: NodeId) -> None:
    """Delete a node in the trash for good, with all below it."""
    services.database.write(lambda connection: trash.purge(connection, caller, node_id))
    services.background.wake(trash.EMPTY_TRASH)
