"""The Gateway API's types as far as rebake and its tests use them, with the CRDs' bounds, defaults and merge rules.

Source: Gateway API v1 (standard channel), `GatewayClassSpec`, `GatewaySpec` and `HTTPRouteSpec`. Filters other than
header changes, mirrors and redirects, and the parts of Gateway that name certificates, are left open: what is in them
is kept unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}
_OPEN: Schema = {"type": "object"}
_PREFIX = "io.k8s.networking.gateway.v1."


def _integer(minimum: int, maximum: int, **more: object) -> Schema:
    return {"type": "integer", "format": "int32", "minimum": minimum, "maximum": maximum, **more}


def _struct(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required)}


def _atomic(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic", **more}


def _by(key: str, items: Schema) -> Schema:
    return {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


_PORT = _integer(1, 65535)
_META: Schema = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
_CONDITIONS = _by("type", {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.Condition"})
_PARENT = _struct(
    ("name",),
    group={**_STRING, "default": "gateway.networking.k8s.io"},
    kind={**_STRING, "default": "Gateway"},
    namespace=_STRING,
    name=_STRING,
    sectionName=_STRING,
    port=_PORT,
)
_TARGET: dict[str, Schema] = {
    "group": {**_STRING, "default": ""},
    "kind": {**_STRING, "default": "Service"},
    "name": _STRING,
    "namespace": _STRING,
    "port": _PORT,
}
_HEADER = _struct(("name", "value"), name=_STRING, value=_STRING)
_HEADER_CHANGE = _struct(
    set=_by("name", _HEADER), add=_by("name", _HEADER), remove={**_atomic(_STRING), "x-kubernetes-list-type": "set"}
)
_FILTER = _struct(
    ("type",),
    type=_STRING,
    requestHeaderModifier=_HEADER_CHANGE,
    responseHeaderModifier=_HEADER_CHANGE,
    requestMirror=_OPEN,
    requestRedirect=_OPEN,
    urlRewrite=_OPEN,
    extensionRef=_OPEN,
    cors=_OPEN,
)
_BACKEND = _struct(("name",), **_TARGET, weight=_integer(0, 1_000_000, default=1), filters=_atomic(_FILTER))
_WHOLE_PATH = {"type": "PathPrefix", "value": "/"}
_MATCH = _struct(
    path={
        **_struct(type={**_STRING, "default": "PathPrefix"}, value={**_STRING, "default": "/"}),
        "default": _WHOLE_PATH,
    },
    headers=_by("name", _struct(("name", "value"), type={**_STRING, "default": "Exact"}, name=_STRING, value=_STRING)),
    queryParams=_by("name", _struct(("name", "value"), type=_STRING, name=_STRING, value=_STRING)),
    method=_STRING,
)
_RULE = _struct(
    name=_STRING,
    matches=_atomic(_MATCH, default=[{"path": _WHOLE_PATH}]),
    filters=_atomic(_FILTER),
    backendRefs=_atomic(_BACKEND),
    timeouts=_struct(request=_STRING, backendRequest=_STRING),
    retry=_OPEN,
    sessionPersistence=_OPEN,
)
_ROUTE_SPEC = _struct(
    parentRefs=_atomic(_PARENT),
    hostnames=_atomic(_STRING),
    rules=_atomic(_RULE, minItems=1, default=[{"matches": [{"path": _WHOLE_PATH}]}]),
)
_ROUTE_PARENT = _struct(
    ("controllerName", "parentRef"), parentRef=_PARENT, controllerName=_STRING, conditions=_CONDITIONS
)
_LISTENER = _struct(
    ("name", "port", "protocol"),
    name=_STRING,
    hostname=_STRING,
    port=_PORT,
    protocol=_STRING,
    tls=_OPEN,
    allowedRoutes=_struct(namespaces=_struct((), **{"from": _STRING}, selector=_OPEN), kinds=_atomic(_OPEN)),
)
_LISTENER_STATUS = _struct(
    ("attachedRoutes", "name"),
    name=_STRING,
    supportedKinds=_atomic(_OPEN),
    attachedRoutes=_integer(0, 2**31 - 1),
    conditions=_CONDITIONS,
)
_ADDRESS = _struct(type=_STRING, value=_STRING)
_GATEWAY_SPEC = _struct(
    ("gatewayClassName", "listeners"),
    gatewayClassName=_STRING,
    listeners=_by("name", _LISTENER),
    addresses=_atomic(_ADDRESS),
    infrastructure=_OPEN,
)


_CLASS_SPEC = _struct(
    ("controllerName",), controllerName=_STRING, description=_STRING, parametersRef=_struct((), **_TARGET)
)


def _kind(spec: Schema, status: Schema) -> Schema:
    return _struct(("spec",), apiVersion=_STRING, kind=_STRING, metadata=_META, spec=spec, status=status)


DEFINITIONS: Mapping[str, Schema] = {
    _PREFIX + "GatewayClass": _kind(
        _CLASS_SPEC, _struct(conditions=_CONDITIONS, supportedFeatures=_by("name", _struct(("name",), name=_STRING)))
    ),
    _PREFIX + "HTTPRoute": _kind(_ROUTE_SPEC, _struct(("parents",), parents=_atomic(_ROUTE_PARENT))),
    _PREFIX + "Gateway": _kind(
        _GATEWAY_SPEC,
        _struct(addresses=_atomic(_ADDRESS), conditions=_CONDITIONS, listeners=_by("name", _LISTENER_STATUS)),
    ),
}
