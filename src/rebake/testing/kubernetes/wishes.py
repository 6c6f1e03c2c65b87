"""What is asked of the writer: which object, how the write is meant, and what an applied configuration must be."""

from __future__ import annotations

from dataclasses import dataclass, field

from rebake.testing.kubernetes.apply import undeclared
from rebake.testing.kubernetes.decode import decode
from rebake.testing.kubernetes.patches import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.schema import named
from rebake.testing.kubernetes.status import (
    ApiError,
    Json,
    bad_request,
    forbidden_field,
    invalid_kind,
    required,
    unsupported_media_type,
)


@dataclass(frozen=True, slots=True)
class Place:
    """One object's path; without a name its collection's."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How a write is meant.

    Attributes:
        manager: who it is, for `managedFields`.
        explicit: whether the caller named the manager; apply demands it.
        field_validation: `Ignore`, `Warn` or `Strict`.
        system: a controller of the cluster's own, which is not validated and may write what users may not.
    """

    manager: str = "unknown"
    explicit: bool = False
    dry_run: bool = False
    force: bool | None = None
    field_validation: str = "Warn"
    system: bool = False


@dataclass(slots=True)
class Written:
    """Attributes: warnings: what the header `Warning` says."""

    item: Json
    created: bool = False
    warnings: list[str] = field(default_factory=list)


def check_patch_media(resource: Resource, media: str) -> None:
    """Raises: ApiError 415 for a patch that this resource does not take."""
    accepted = [JSON_PATCH, MERGE_PATCH, *([] if resource.custom else [STRATEGIC_PATCH]), APPLY_PATCH]
    if media not in accepted:
        raise unsupported_media_type(accepted if resource.custom else ())


def check_patch_options(media: str, options: Options) -> None:
    causes = []
    if media == APPLY_PATCH and not options.explicit:
        causes.append(required("fieldManager", "is required for apply patch"))
    if media != APPLY_PATCH and options.force is not None:
        causes.append(forbidden_field("force", "may not be specified for non-apply patch"))
    if causes:
        raise invalid_kind("meta.k8s.io", "PatchOptions", "", causes)


def configuration(at: Place, body: object) -> Json:
    """What is applied, checked as far as it can be without the object. Raises: ApiError."""
    resource, name = at.resource, at.name
    if not isinstance(body, dict):
        raise bad_request("error decoding YAML: an object is expected")
    said = (body.get("apiVersion"), body.get("kind"))
    if not all(said):
        raise bad_request("Object 'Kind' is missing" if not said[1] else "Object 'apiVersion' is missing")
    if said[0] != resource.api_version:
        expected = f"Specified patch version: {said[0]}, expected: {resource.api_version}"
        raise bad_request(f"Incorrect version specified in apply patch. {expected}")
    if wrong := undeclared(named(resource.definition), body):
        where = f"{at.namespace}/{name}; {resource.group}/{resource.version}, Kind={resource.kind}"
        text = wrong[0] if len(wrong) == 1 else "errors:\n" + "\n".join(f"  {one}" for one in wrong)
        raise ApiError(500, "", f"failed to create typed patch object ({where}): {text}")
    wish = decode(resource, body).value
    metadata = wish.setdefault("metadata", {})
    if metadata.get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    if metadata.setdefault("name", name) != name:
        raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
    return wish
