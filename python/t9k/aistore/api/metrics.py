"""`/metrics` for Prometheus: requests by route and status, their time, what was collected, and the process."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import Response

from t9k.aistore.artifacts.gc import Collected

_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

_COLLECTED = {
    "deleted_packs": "Packs that nothing reached and that were deleted",
    "deleted_bytes": "Bytes of these packs",
    "rewritten_packs": "Packs that were mostly unused and were rewritten without the rest",
    "read_bytes": "Bytes that were read for it",
    "written_bytes": "Bytes of the new packs",
    "damaged_chunks": "Used chunks that were found damaged by it, each time",
}
"""Attributes of `Collected`."""

router = APIRouter(tags=["health"])


class RequestMetrics:
    """Counters of one process; with several workers they meet in the directory PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self) -> None:
        """Counts from nothing."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aistore_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "aistore_request_seconds", "Time to answer", ["route"], buckets=_BUCKETS_S, registry=self._registry
        )
        self._collected = {
            name: Counter(f"aistore_gc_{name}", what, registry=self._registry) for name, what in _COLLECTED.items()
        }
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=self._registry)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request. Routes and methods are from closed sets, so memory is bounded."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def note_collected(self, done: Collected) -> None:
        """Counts what the garbage collector did."""
        for name, counter in self._collected.items():
            counter.inc(getattr(done, name))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(request: Request) -> Response:
    """Counters of requests and of the process, for Prometheus. Names no user and no node."""
    metrics: RequestMetrics = request.app.state.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
