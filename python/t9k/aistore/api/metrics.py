"""`/metrics` for Prometheus: requests by route and status, their time, and the process."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import Response

_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

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
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=self._registry)

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request. Routes and methods are from closed sets, so memory is bounded."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(request: Request) -> Response:
    """Counters of requests and of the process, for Prometheus. Names no user and no node."""
    metrics: RequestMetrics = request.app.state.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
