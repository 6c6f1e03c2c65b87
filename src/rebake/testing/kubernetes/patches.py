"""The three patches that are no apply: JSON patch, merge patch, strategic merge patch.

Source: RFC 6902; RFC 7396; Kubernetes, "Update API Objects in Place Using kubectl patch"; apimachinery
`pkg/util/strategicpatch` (directives `$patch`, `$retainKeys`, `$deleteFromPrimitiveList`, `$setElementOrder`).
"""

from __future__ import annotations

import copy
from typing import Any

from rebake.testing.kubernetes.schema import Type
from rebake.testing.kubernetes.status import ApiError, Json, bad_request

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_MISSING = object()


def json_patch(target: Any, patch: object) -> Any:
    """Raises: ApiError 400 for what is no patch; 422 where a step cannot be done, or its test fails."""
    if not isinstance(patch, list):
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    result = copy.deepcopy(target)
    for step in patch:
        try:
            result = _step(result, step)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            message = "the server rejected our request due to an error in our request"
            raise ApiError(422, "Invalid", message, {}) from error
    return result


def _step(root: Any, step: Json) -> Any:
    kind, place = step["op"], _pointer(step["path"])
    if kind == "test":
        if _look(root, place) != step.get("value"):
            raise ValueError("the test failed")
        return root
    if kind == "remove":
        return _put(root, place, _MISSING)
    if kind == "replace":
        _look(root, place)
        return _put(_put(root, place, _MISSING), place, step["value"]) if place else step["value"]
    if kind in {"move", "copy"}:
        source = _pointer(step["from"])
        value = copy.deepcopy(_look(root, source))
        return _put(_put(root, source, _MISSING) if kind == "move" else root, place, value)
    if kind == "add":
        return _put(root, place, step["value"])
    raise ValueError(kind)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _look(root: Any, place: list[str]) -> Any:
    for part in place:
        root = root[int(part)] if isinstance(root, list) else root[part]
    return root


def _put(root: Any, place: list[str], value: Any) -> Any:
    if not place:
        return value
    holder, last = _look(root, place[:-1]), place[-1]
    if isinstance(holder, list):
        if value is _MISSING:
            del holder[int(last)]
        else:
            index = len(holder) if last == "-" else int(last)
            if index > len(holder):
                raise IndexError(index)
            holder.insert(index, value)
    elif value is _MISSING:
        del holder[last]
    else:
        holder[last] = value
    return root


def merge_patch(target: Any, patch: Any) -> Any:
    """Source: RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, one in patch.items():
        if one is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), one)
    return result


def strategic_patch(kind: Type, target: Any, patch: Any) -> Any:
    """Merge by the schema: lists with a merge key element by element, others replaced."""
    if kind.shape in {"struct", "map", "any"} and isinstance(patch, dict):
        return _strategic_struct(kind, target if isinstance(target, dict) else {}, patch)
    if kind.shape == "list" and "merge" in kind.strategies and isinstance(patch, list):
        return _strategic_list(kind, list(target or ()), patch)
    return copy.deepcopy(patch)


def _strategic_struct(kind: Type, target: Json, patch: Json) -> Json:
    if patch.get("$patch") == "replace":
        return copy.deepcopy({name: one for name, one in patch.items() if name != "$patch"})
    result = dict(target)
    if (kept := patch.get("$retainKeys")) is not None:
        result = {name: one for name, one in result.items() if name in kept}
    for name, one in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.split("/", 1)[1]
            result[field] = [value for value in result.get(field, ()) if value not in one]
        elif name.startswith("$"):
            continue  # orders of elements are not kept
        elif one is None:
            result.pop(name, None)
        else:
            inner = kind.field(name)
            result[name] = strategic_patch(inner, result.get(name), one) if inner is not None else copy.deepcopy(one)
    return result


def _strategic_list(kind: Type, target: list[Any], patch: list[Any]) -> list[Any]:
    key = kind.merge_key
    if not key:
        return target + [one for one in patch if one not in target]
    if any(one.get("$patch") == "replace" for one in patch):
        return [copy.deepcopy(one) for one in patch if "$patch" not in one]
    result = list(target)
    for one in patch:
        if key not in one:
            raise bad_request(f"map: {one} does not contain declared merge key: {key}")
        at = next((index for index, held in enumerate(result) if held.get(key) == one[key]), None)
        if one.get("$patch") == "delete":
            result = [held for held in result if held.get(key) != one[key]]
        elif at is None:
            result.append(strategic_patch(kind.element, {}, one))
        else:
            result[at] = strategic_patch(kind.element, result[at], one)
    return result
