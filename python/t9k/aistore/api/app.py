"""The app: routes, problem documents, and what every request passes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import Lifespan

from t9k.aistore.api import (
    artifacts,
    cors,
    keys,
    lineage,
    metrics,
    nodes,
    packs,
    problems,
    run_metrics,
    runs,
    session,
    shares,
    trash,
    users,
)
from t9k.aistore.api.bodies import Room
from t9k.aistore.api.middleware import Envelope
from t9k.aistore.db import history
from t9k.aistore.services import Services
from t9k.protocol import API_PREFIX, MAX_PACK_BYTES

ROUTERS = [
    run_metrics.router,
    runs.router,
    session.router,
    packs.router,
    artifacts.router,
    nodes.router,
    shares.router,
    trash.router,
    keys.router,
    users.router,
    lineage.router,
]
"""All routers below the API's prefix, those asked most often first: a path is compared with one after the other."""

STREAMING = re.compile(
    rf"{API_PREFIX}/(packs/.*|artifacts/(plan|missing|commit|[^/]*/(objects|locate))|runs/[^/]*/(metrics/.*|log))"
)
"""Paths of routes that read their bodies piece by piece, each with a cap of its own."""


def make_app(services: Services) -> FastAPI:
    """The ASGI app over these services, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.background.start()
        yield
        services.close()

    app = _routed(lifespan)
    app.state.services = services
    app.state.room = Room((services.settings.packs_in_flight + 1) * MAX_PACK_BYTES)
    app.state.metrics = metrics.RequestMetrics()
    services.note_collected = app.state.metrics.note_collected
    current = services.database.read(history.current)
    cors.allow(app, services.settings.cors_origins)
    app.add_middleware(Envelope, metrics=app.state.metrics, streaming=STREAMING, history=current)
    return app


def document() -> dict[str, Any]:
    """The OpenAPI document, as `docs/openapi.json` has it."""
    return _routed(None).openapi()


def _routed(lifespan: Lifespan[FastAPI] | None) -> FastAPI:
    app = FastAPI(
        title="AIStore",
        version="1",
        lifespan=lifespan,
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    for router in ROUTERS:
        app.include_router(router, prefix=API_PREFIX)
    app.include_router(session.health)
    app.include_router(metrics.router)
    problems.install(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
