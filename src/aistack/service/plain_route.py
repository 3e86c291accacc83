"""A short way through the framework for the requests that take most of a service's time.

A route that takes one JSON body and answers with a `Response` of its own needs nothing of what the
framework does between the two: no dependencies, no other parameters, no serializing. For a good
request the body is parsed and validated here, by the same parser and the same model. Whatever is
not plainly good (another content type, no JSON, a body that the model refuses) goes the
framework's whole way and gets its words.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from aistack.service.errors import BadRequest

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

#: What a dependant has beside one body and the request itself.
_OTHERS = (
    "path_params",
    "query_params",
    "header_params",
    "cookie_params",
    "dependencies",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
    "websocket_param_name",
    "http_connection_param_name",
)


def plain(route: APIRoute, framework: Handler) -> Handler:
    """The short way of `route`, which falls back on `framework`; `framework` where it has none."""
    dependant, endpoint = route.dependant, route.endpoint
    bodies = dependant.body_params
    if len(bodies) != 1 or any(getattr(dependant, name, None) for name in _OTHERS):
        return framework
    annotations = inspect.get_annotations(endpoint, eval_str=True)
    name, wanted = bodies[0].name, dependant.request_param_name
    model = annotations.get(name)
    answers = annotations.get("return")
    if not (
        inspect.iscoroutinefunction(endpoint)
        and inspect.isclass(model)
        and issubclass(model, BaseModel)
        and inspect.isclass(answers)
        and issubclass(answers, Response)
    ):
        return framework
    validate = model.__pydantic_validator__.validate_python

    async def handle(request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":
            return await framework(request)
        try:
            # Kept by the request: the framework's way reads the same bytes again.
            given = json.loads(await request.body())
            body = validate(given) if isinstance(given, dict) else None
        except ClientDisconnect as error:
            raise BadRequest("The request cannot be read.") from error
        except (ValidationError, ValueError, RecursionError):
            body = None
        if body is None:
            return await framework(request)
        values = {name: body} if wanted is None else {name: body, wanted: request}
        response: Response = await endpoint(**values)
        return response

    return handle
