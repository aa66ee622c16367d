"""What routes ask for: the services, and who is calling.

Dependencies are coroutines: FastAPI moves each plain function to a thread, and one such move costs as much as a query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict

from t9k.aistore.accounts.caller import Caller, admit, claim_use, find_key, note_use
from t9k.aistore.accounts.failures import address_key, too_many
from t9k.aistore.accounts.keys import lookup_prefix
from t9k.aistore.errors import Refusal, unauthenticated
from t9k.aistore.services import Services

ANONYMOUS = Caller(user_id="", name="", role="user", domain="")

_bearer = HTTPBearer(auto_error=False, description="An API key: `em_pat_…`")


class Strict(BaseModel):
    """Base of all bodies: an unknown member is an error, and no value is turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def get_services(request: Request) -> Services:
    """The services of this process."""
    services: Services = request.app.state.services
    return services


async def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Who is calling; without an `Authorization` header an anonymous caller, who sees only what is public."""
    address = request.client.host if request.client else ""
    request_id = request.scope.get("request_id", "")
    if credentials is None:
        if "authorization" in request.headers:
            raise unauthenticated()
        return replace(ANONYMOUS, address=address, request_id=request_id)
    services = await get_services(request)
    try:
        row = await asyncio.wrap_future(find_key(services.database, credentials.credentials))
        caller = admit(credentials.credentials, row)
    except Refusal:
        _note_failure(services, address, credentials.credentials)
        raise
    if claim_use(row):
        await to_thread.run_sync(note_use, services.database, row)
    return replace(caller, address=address, request_id=request_id)


def _note_failure(services: Services, address: str, key: str) -> None:
    """Counts a key that is no good, and says so instead of 401 where there are too many.

    It is asked after the key was looked at: a good one is never refused.
    """
    tried = (address_key(address), ("key", lookup_prefix(key)))
    services.failures.note(*tried)
    if services.failures.is_over(*tried):
        raise too_many()


def _with_scope(scope: str) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        caller.needs(scope)
        return caller

    return check


async def _anybody_who_reads(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    if caller.user_id:
        caller.needs("read")
    return caller


ServicesDep = Annotated[Services, Depends(get_services)]
AnyCaller = Annotated[Caller, Depends(_anybody_who_reads)]
Reader = Annotated[Caller, Depends(_with_scope("read"))]
Writer = Annotated[Caller, Depends(_with_scope("write"))]
Admin = Annotated[Caller, Depends(_with_scope("admin"))]
