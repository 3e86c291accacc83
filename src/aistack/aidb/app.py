"""aidb over HTTP: its parts and its routes."""

from __future__ import annotations

from aistack.aidb import routes_collections, routes_documents, routes_search, routes_vectors
from aistack.aidb.parts import Parts
from aistack.config import Config
from aistack.service.app import Service, service_router


def create(config: Config) -> Service:
    """The service's parts for the kit."""
    parts = Parts(config)
    router = service_router()
    for routes in (routes_search, routes_collections, routes_documents, routes_vectors):
        routes.add_routes(router, parts)
    return Service(
        name="aidb",
        router=router,
        start=parts.start,
        stop=parts.stop,
        needs=parts.needs,
        heartbeats=parts.heartbeats,
    )
