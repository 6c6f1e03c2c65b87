"""The JSON Schema of rebake.yaml, made from the model: for editors, and for everybody who writes such files.

It accepts everything the loader accepts. What holds between values (circles of `after`, rising steps) is beyond a
schema; the loader alone says that.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from rebake.spec import model
from rebake.spec.fields import Unit
from rebake.spec.keys import keys_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as a JSON value, draft 2020-12."""
    schema = model.Spec.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.get("$defs", {})
    for part in _parts():
        target = schema if part is model.Spec else definitions.get(part.__name__, {})
        target.pop("title", None)
        for key, field in keys_of(part).items():
            _complete(target["properties"][key], part, key, field)
    _close(schema)
    return {"$schema": DIALECT, "title": "rebake.yaml", **schema}


def _close(node: Any) -> None:
    """Where names follow a pattern, no other name is allowed."""
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _close(inner)
    if isinstance(node, dict) and "patternProperties" in node:
        node["additionalProperties"] = False


def _complete(prop: dict[str, Any], part: type[model.Part], key: str, field: FieldInfo) -> None:
    """Describe one key, in the spelling of the file, and without the null that the file refuses."""
    prop.pop("title", None)
    prop.pop("default", None)
    if field.default is not None and not field.is_required() and not isinstance(field.default, model.Part):
        prop["default"] = spelled_default(field)
    some = [choice for choice in prop.get("anyOf", ()) if choice != {"type": "null"}]
    if len(some) == 1:
        del prop["anyOf"]
        prop.update(some[0])
    prop["description"] = descriptions()[part.__name__][key]


def spelled_default(field: FieldInfo) -> Any:
    """A key's default as the file would spell it: `10s`, not 10 000."""
    unit = next((rule for rule in field.metadata if isinstance(rule, Unit)), None)
    if unit is None:
        return list(field.default) if isinstance(field.default, tuple) else field.default
    text = unit.write(field.default)
    return float(text) if unit.schema.get("type") == "number" else text


@cache
def descriptions() -> dict[str, dict[str, str]]:
    """By mapping and key, the docstring below the key in the model's source."""
    tree = ast.parse(inspect.getsource(model))
    found: dict[str, dict[str, str]] = {}
    for part in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        found[part.name] = _docstrings(part)
    return found


def _docstrings(part: ast.ClassDef) -> dict[str, str]:
    result: dict[str, str] = {}
    for key, text in zip(part.body, part.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(text, ast.Expr):
            result[key.target.id.removesuffix("_")] = " ".join(ast.literal_eval(text.value).split())
    return result


def _parts() -> list[type[model.Part]]:
    """Every mapping of the file."""
    kinds = vars(model).values()
    return [
        kind for kind in kinds if isinstance(kind, type) and issubclass(kind, model.Part) and kind is not model.Part
    ]
