"""What an object must be, beyond its schema, and what of it may never change.

Source: Kubernetes 1.36, `pkg/apis/*/validation/validation.go`; the texts are the real server's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.decode import missing
from rebake.testing.kubernetes.quantities import is_quantity, quantity
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.schema import named
from rebake.testing.kubernetes.selectors import from_object
from rebake.testing.kubernetes.status import Cause, Json, forbidden_field, invalid, required, unsupported

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"^{_LABEL}(\.{_LABEL})*$")
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_DATA_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
_PERCENT = re.compile(r"^[0-9]+%$")
_PERCENT_TEXT = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    "validation is '[0-9]+%')"
)
_IMMUTABLE = "field is immutable"
_DATA_IMMUTABLE = "field is immutable when `immutable` is set"
_POD_IMMUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_STATEFUL_IMMUTABLE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_STATEFUL_MUTABLE = frozenset(
    {"replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "minReadySeconds"}
    | {"persistentVolumeClaimRetentionPolicy"}
)
MAX_DATA_BYTES = 1024 * 1024


def validate(resource: Resource, item: Json) -> list[Cause]:
    """Everything that is wrong with a whole object."""
    causes = _metadata(resource, item["metadata"])
    written = item if resource.custom else {name: one for name, one in item.items() if name != "status"}
    causes += missing(named(resource.definition), written)
    if causes:
        return causes
    check = _CHECKS.get(resource)
    return check(item) if check else []


def _metadata(resource: Resource, metadata: Json) -> list[Cause]:
    causes = []
    name = metadata.get("name", "")
    if not name:
        causes.append(required("metadata.name", "name or generateName is required"))
    elif resource.group != "rbac.authorization.k8s.io" and (not _SUBDOMAIN.match(name) or len(name) > 253):
        causes.append(invalid("metadata.name", name, _SUBDOMAIN_TEXT))
    elif resource in {kinds.SERVICES, kinds.NAMESPACES} and (len(name) > 63 or "." in name):
        causes.append(invalid("metadata.name", name, "must be no more than 63 characters" if len(name) > 63 else _DNS))
    return causes + _labels(metadata.get("labels"), "metadata.labels")


_DNS = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)


def _labels(labels: Mapping[str, str] | None, path: str) -> list[Cause]:
    causes = []
    for value in (labels or {}).values():
        if len(value) > 63:
            causes.append(invalid(path, value, "must be no more than 63 bytes"))
        elif not _LABEL_VALUE.match(value):
            causes.append(invalid(path, value, _LABEL_VALUE_TEXT))
    return causes


def _one_of(value: object, path: str, allowed: Sequence[str]) -> list[Cause]:
    return [] if value in allowed or value is None else [unsupported(path, value, allowed)]


def pod_spec(spec: Json, path: str) -> list[Cause]:
    causes: list[Cause] = []
    volumes = {one["name"] for one in spec.get("volumes", ())}
    if not spec.get("containers"):
        causes.append(required(f"{path}.containers"))
    names: set[str] = set()
    for index, container in enumerate(spec.get("containers", ())):
        here = f"{path}.containers[{index}]"
        if container["name"] in names:
            causes.append(Cause("FieldValueDuplicate", f"{here}.name", "", container["name"]))
        names.add(container["name"])
        causes += _container(container, here, volumes)
    causes += _one_of(spec.get("restartPolicy"), f"{path}.restartPolicy", ("Always", "OnFailure", "Never"))
    return causes


def _container(container: Json, path: str, volumes: set[str]) -> list[Cause]:
    causes = []
    if not container.get("image"):
        causes.append(required(f"{path}.image"))
    causes += _one_of(container.get("imagePullPolicy"), f"{path}.imagePullPolicy", ("Always", "IfNotPresent", "Never"))
    for index, mount in enumerate(container.get("volumeMounts", ())):
        if mount["name"] not in volumes:
            causes.append(Cause("FieldValueNotFound", f"{path}.volumeMounts[{index}].name", "", mount["name"]))
    for index, port in enumerate(container.get("ports", ())):
        if not 0 < port["containerPort"] < 65536:
            where = f"{path}.ports[{index}].containerPort"
            causes.append(invalid(where, port["containerPort"], "must be between 1 and 65535, inclusive"))
    limits, requests = container["resources"].get("limits", {}), container["resources"].get("requests", {})
    wrong = _quantities(limits, f"{path}.resources.limits") + _quantities(requests, f"{path}.resources.requests")
    if wrong:
        return causes + wrong
    for name, wanted in requests.items():
        if name in limits and quantity(wanted) > quantity(limits[name]):
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            causes.append(invalid(f"{path}.resources.requests", wanted, detail))
    return causes


def _quantities(values: Json, path: str) -> list[Cause]:
    detail = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    return [invalid(f"{path}[{name}]", one, detail) for name, one in values.items() if not is_quantity(one)]


def _pod(item: Json) -> list[Cause]:
    return pod_spec(item["spec"], "spec")


def _workload(item: Json) -> list[Cause]:
    spec = item["spec"]
    selector, labels = spec["selector"], spec["template"].get("metadata", {}).get("labels", {})
    causes = []
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        causes.append(invalid("spec.selector", selector, "empty selector is invalid for deployment"))
    elif not from_object(selector)(labels):
        detail = "`selector` does not match template `labels`"
        causes.append(invalid("spec.template.metadata.labels", labels, detail))
    if spec.get("replicas", 0) < 0:
        causes.append(invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    causes += _labels(labels, "spec.template.labels")
    causes += pod_spec(spec["template"]["spec"], "spec.template.spec")
    if spec["template"]["spec"].get("restartPolicy") != "Always":
        causes.append(
            unsupported("spec.template.spec.restartPolicy", spec["template"]["spec"].get("restartPolicy"), ["Always"])
        )
    return causes


def _deployment(item: Json) -> list[Cause]:
    spec = item["spec"]
    causes = _workload(item)
    causes += _one_of(spec["strategy"]["type"], "spec.strategy.type", ("Recreate", "RollingUpdate"))
    rolling = spec["strategy"].get("rollingUpdate")
    if spec["strategy"]["type"] == "Recreate" and rolling is not None:
        causes.append(
            forbidden_field("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
        )
    elif rolling and all(str(rolling[one]) in {"0", "0%"} for one in ("maxSurge", "maxUnavailable")):
        where = "spec.strategy.rollingUpdate.maxUnavailable"
        causes.append(invalid(where, rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0"))
    for name, share in (rolling or {}).items():
        causes += _share(share, f"spec.strategy.rollingUpdate.{name}")
    if spec["progressDeadlineSeconds"] <= spec.get("minReadySeconds", 0):
        detail = "must be greater than minReadySeconds"
        causes.append(invalid("spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], detail))
    return causes


def _service(item: Json) -> list[Cause]:
    spec = item["spec"]
    types = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    causes = _one_of(spec["type"], "spec.type", types)
    ports = spec.get("ports", [])
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        causes.append(required("spec.ports"))
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            causes.append(required(f"spec.ports[{index}].name"))
        if not 0 < port["port"] < 65536:
            causes.append(invalid(f"spec.ports[{index}].port", port["port"], "must be between 1 and 65535, inclusive"))
    return causes


def _data(item: Json) -> list[Cause]:
    causes, size = [], 0
    for field in ("data", "binaryData"):
        for key, text in item.get(field, {}).items():
            size += len(text.encode())
            if not _DATA_KEY.match(key):
                detail = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                    "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                )
                causes.append(invalid(f"{field}[{key}]", key, detail))
    if size > MAX_DATA_BYTES:
        causes.append(Cause("FieldValueTooLong", "", f"may not be more than {MAX_DATA_BYTES} bytes"))
    return causes


def _budget(item: Json) -> list[Cause]:
    spec = item.get("spec", {})
    if "minAvailable" in spec and "maxUnavailable" in spec:
        return [invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")]
    return [
        cause
        for name in ("minAvailable", "maxUnavailable")
        if name in spec
        for cause in _share(spec[name], f"spec.{name}")
    ]


def _share(value: object, path: str) -> list[Cause]:
    """A number of pods, or a percentage."""
    if isinstance(value, int):
        return [] if value >= 0 else [invalid(path, value, "must be greater than or equal to 0")]
    return [] if _PERCENT.match(str(value)) else [invalid(path, value, _PERCENT_TEXT)]


def _route(item: Json) -> list[Cause]:
    """Of the CRD's rules in CEL the one that is met most."""
    return [
        invalid(f"spec.rules[{rule}].backendRefs[{index}]", "object", "Must have port for Service reference")
        for rule, held in enumerate(item["spec"].get("rules", ()))
        for index, backend in enumerate(held.get("backendRefs", ()))
        if (backend["group"], backend["kind"]) == ("", "Service") and "port" not in backend
    ]


def _quota(item: Json) -> list[Cause]:
    return _quantities(item.get("spec", {}).get("hard", {}), "spec.hard")


_CHECKS: Mapping[Resource, Callable[[Json], list[Cause]]] = {
    kinds.PODS: _pod,
    kinds.DEPLOYMENTS: _deployment,
    kinds.REPLICASETS: _workload,
    kinds.STATEFULSETS: _workload,
    kinds.SERVICES: _service,
    kinds.CONFIGMAPS: _data,
    kinds.SECRETS: _data,
    kinds.BUDGETS: _budget,
    kinds.QUOTAS: _quota,
    kinds.HTTP_ROUTES: _route,
}


def validate_change(resource: Resource, before: Json, after: Json) -> list[Cause]:
    """What may not change and did."""
    causes = []
    for field in ("uid", "creationTimestamp", "name", "namespace"):
        if before["metadata"].get(field) != after["metadata"].get(field):
            causes.append(invalid(f"metadata.{field}", after["metadata"].get(field), _IMMUTABLE))
    check = _CHANGES.get(resource)
    return causes + (check(before, after) if check else [])


def _selector_change(before: Json, after: Json) -> list[Cause]:
    if before["spec"]["selector"] == after["spec"]["selector"]:
        return []
    return [invalid("spec.selector", after["spec"]["selector"], _IMMUTABLE)]


def _stateful_change(before: Json, after: Json) -> list[Cause]:
    fields = (before["spec"].keys() | after["spec"].keys()) - _STATEFUL_MUTABLE
    changed = any(before["spec"].get(one) != after["spec"].get(one) for one in fields)
    return [forbidden_field("spec", _STATEFUL_IMMUTABLE)] if changed else []


def _data_change(before: Json, after: Json) -> list[Cause]:
    causes = []
    if before.get("immutable"):
        if not after.get("immutable"):
            causes.append(forbidden_field("immutable", _DATA_IMMUTABLE))
        causes += [
            forbidden_field(one, _DATA_IMMUTABLE) for one in ("data", "binaryData") if before.get(one) != after.get(one)
        ]
    if before.get("type") != after.get("type"):
        causes.append(invalid("type", after.get("type"), _IMMUTABLE))
    return causes


def _pod_change(before: Json, after: Json) -> list[Cause]:
    """Ephemeral containers have a path of their own, so here they may not change either."""
    return [forbidden_field("spec", _POD_IMMUTABLE)] if _fixed(before["spec"]) != _fixed(after["spec"]) else []


def _fixed(spec: Json) -> Json:
    free = {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"}
    kept: dict[str, Any] = {name: one for name, one in spec.items() if name not in free}
    for name in ("containers", "initContainers"):
        kept[name] = [{**one, "image": ""} for one in spec.get(name, ())]
    return kept


def _service_change(before: Json, after: Json) -> list[Cause]:
    old, new = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
    if old in {None, "", new} or after["spec"]["type"] == "ExternalName":
        return []
    return [invalid("spec.clusterIPs[0]", [new], "may not change once set")]


def _role_reference_change(before: Json, after: Json) -> list[Cause]:
    same = before["roleRef"] == after["roleRef"]
    return [] if same else [invalid("roleRef", after["roleRef"], "cannot change roleRef")]


_CHANGES: Mapping[Resource, Callable[[Json, Json], list[Cause]]] = {
    kinds.PODS: _pod_change,
    kinds.DEPLOYMENTS: _selector_change,
    kinds.REPLICASETS: _selector_change,
    kinds.STATEFULSETS: _stateful_change,
    kinds.CONFIGMAPS: _data_change,
    kinds.SECRETS: _data_change,
    kinds.SERVICES: _service_change,
    kinds.ROLE_BINDINGS: _role_reference_change,
    kinds.CLUSTER_ROLE_BINDINGS: _role_reference_change,
}
