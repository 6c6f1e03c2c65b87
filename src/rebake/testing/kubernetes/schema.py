"""Types of Kubernetes' objects, from the OpenAPI documents that `kubernetes-validate` carries.

They say which fields there are, which must be there, how lists are merged, and so serve decoding, strategic merge
patches and server-side apply alike. What a real server does with what does not fit: a wrong type is refused as it
decodes (400), an unknown field is dropped and warned of, a missing one is refused as it validates (422).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rebake.testing.kubernetes.gateway_schema import DEFINITIONS as GATEWAY

SERVED_VERSION = "1.36"
_KEY_DEFAULTS: Mapping[str, Any] = {"protocol": "TCP"}
"""Keys of associative lists that may be left out."""
_SCALARS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_LIMITS = {"int32": 2**31}


@functools.cache
def _definitions() -> Mapping[str, Any]:
    try:
        from importlib.resources import files

        folder = files("kubernetes_validate") / "kubernetes-json-schema"
    except ModuleNotFoundError as error:
        raise RuntimeError("the emulated API server needs its schemas: pip install kubernetes-validate") from error
    document = folder / f"v{SERVED_VERSION}.0-local-strict" / "_definitions.json"
    found: Mapping[str, Any] = json.loads(document.read_text(encoding="utf-8"))["$defs"]
    return {**found, **GATEWAY}


@functools.cache
def named(definition: str) -> Type:
    """The type of this name, such as `io.k8s.api.core.v1.Pod`. Raises: KeyError."""
    return Type(_definitions()[definition], definition.rsplit(".", 1)[-1])


class Type:
    """One type, and how a field of it is merged.

    Attributes:
        shape: `struct` (fields by name), `map` (any keys, one type), `list`, `scalar` or `any`.
        name: the Go type's, where it has one.
    """

    def __init__(self, schema: Mapping[str, Any], name: str = "") -> None:
        self._own = schema
        reference = str(schema.get("$ref", "")).rsplit("/", 1)[-1]
        self._schema = {**_definitions()[reference], **schema} if reference else schema
        self.name = reference.rsplit(".", 1)[-1] or name
        kinds = self._schema.get("type", ())
        self.json_type = next(one for one in (kinds if isinstance(kinds, list) else [kinds or "any"]) if one != "null")
        self.shape = self._shape()
        self.atomic = self._schema.get("x-kubernetes-map-type") == "atomic"
        self.required: tuple[str, ...] = tuple(self._schema.get("required", ()))
        self.merge_key: str = self._schema.get("x-kubernetes-patch-merge-key", "")
        self.strategies: tuple[str, ...] = tuple(self._schema.get("x-kubernetes-patch-strategy", "").split(","))
        self.format: str = self._schema.get("format", self.json_type)

    def _shape(self) -> str:
        if "properties" in self._schema:
            return "struct"
        if isinstance(self._schema.get("additionalProperties"), dict):
            return "map"
        if self.json_type == "array":
            return "list"
        return "scalar" if self.json_type in _SCALARS else "any"

    @functools.cached_property
    def list_type(self) -> str:
        """`map`, `set` or `atomic`; a list that strategic merge joins by a key is a map here too."""
        said = self._schema.get("x-kubernetes-list-type")
        if said is None and "merge" in self.strategies:
            said = "map" if self.merge_key else "set"
        return said or "atomic"

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """What names an element of a list of type `map`."""
        return tuple(self._schema.get("x-kubernetes-list-map-keys", (self.merge_key,)))

    @functools.cached_property
    def element(self) -> Type:
        """What a list or a map holds."""
        return Type(self._schema["items"] if self.shape == "list" else self._schema["additionalProperties"])

    @functools.cached_property
    def _fields(self) -> dict[str, Type]:
        return {}

    def field(self, name: str) -> Type | None:
        """The type of a field; None where there is none of this name."""
        if self.shape == "map":
            return self.element
        if name not in self._fields:
            schema = self._schema.get("properties", {}).get(name)
            if schema is None:
                return None
            self._fields[name] = Type(schema)
        return self._fields[name]

    def defaults(self) -> Iterator[tuple[str, Any]]:
        """Fields that custom resources fill in themselves."""
        for name, schema in self._schema.get("properties", {}).items():
            if "default" in schema:
                yield name, schema["default"]

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        return self._schema.get("minimum"), self._schema.get("maximum")

    @property
    def least_items(self) -> int:
        return int(self._schema.get("minItems", 0))

    def fits(self, value: object) -> bool:
        """Whether a value has the shape, its parts aside."""
        if self.shape == "any":
            return self._fits_one_of(value)
        if self.shape in {"struct", "map"}:
            return isinstance(value, dict)
        if self.shape == "list":
            return isinstance(value, list)
        wanted = _SCALARS[self.json_type]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            return False
        return not isinstance(value, int) or abs(value) < _LIMITS.get(self.format, 2**63)

    def _fits_one_of(self, value: object) -> bool:
        """A number or text, where a type may be either (`IntOrString`, `Quantity`); else anything."""
        options = [kind for one in self._schema.get("oneOf", ()) for kind in one["type"] if kind != "null"]
        if not options or isinstance(value, str):
            return True
        whole = isinstance(value, int) and abs(value) < _LIMITS["int32"]
        return not isinstance(value, bool) and (whole if "integer" in options else isinstance(value, (int, float)))

    def key_of(self, element: Mapping[str, Any]) -> str:
        """The element's name in a path: `k:{"name":"web"}`."""
        found = {one: element.get(one, _KEY_DEFAULTS.get(one)) for one in sorted(self.keys)}
        return "k:" + json.dumps({k: v for k, v in found.items() if v is not None}, separators=(",", ":"))
