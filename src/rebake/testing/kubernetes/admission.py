"""What is asked before an object is stored: its namespace, quotas, Pod Security, webhooks of the test's own.

Source: Kubernetes, "Pod Security Standards" (restricted), "Resource Quotas"; the texts are the real server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.quantities import quantity
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import ApiError, Json, forbidden, not_found
from rebake.testing.kubernetes.store import Store

Webhook = Callable[[Resource, Json], str]
"""Says why an object is refused; nothing if it is not."""

_ENFORCE, _WARN = "pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/warn"
_TEMPLATED = frozenset({kinds.DEPLOYMENTS, kinds.REPLICASETS, kinds.STATEFULSETS})


class Admission:
    """Attributes: webhooks: by name; each is asked about every object that is created or changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.webhooks: dict[str, Webhook] = {}

    def check(self, resource: Resource, item: Json) -> list[str]:
        """Admit a valid object that is to be created, and give warnings. Raises: ApiError 403, or a webhook's 400."""
        place = item["metadata"].get("namespace", "")
        self._ask_webhooks(resource, item)
        if resource == kinds.PODS:
            self._service_account(item, place)
            self._security(item, place)
            self._quota(item, place)
        return self._warnings(resource, item, place)

    def check_change(self, resource: Resource, item: Json) -> list[str]:
        """The same for an object that is to be changed."""
        self._ask_webhooks(resource, item)
        return self._warnings(resource, item, item["metadata"].get("namespace", ""))

    def _ask_webhooks(self, resource: Resource, item: Json) -> None:
        for webhook, refuses in self.webhooks.items():
            if why := refuses(resource, item):
                raise ApiError(400, "", f'admission webhook "{webhook}" denied the request: {why}')

    def check_namespace(self, resource: Resource, item: Json) -> None:
        """Whether the namespace takes new objects; asked before all else. Raises: ApiError 403, 404."""
        if not resource.namespaced:
            return
        name, place = item["metadata"].get("name", ""), item["metadata"].get("namespace", "")
        namespace = self._store.get(kinds.NAMESPACES, "", place)
        if namespace is None:
            raise not_found(kinds.NAMESPACES, place)
        if "deletionTimestamp" in namespace["metadata"]:
            why = f"unable to create new content in namespace {place} because it is being terminated"
            error = forbidden(resource, name, why)
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {place} is being terminated",
                "field": "metadata.namespace",
            }
            error.status["details"]["causes"] = [cause]
            raise error

    def _service_account(self, pod: Json, place: str) -> None:
        account = pod["spec"]["serviceAccountName"]
        if self._store.get(kinds.SERVICE_ACCOUNTS, place, account) is None:
            why = f'error looking up service account {place}/{account}: serviceaccount "{account}" not found'
            raise forbidden(kinds.PODS, pod["metadata"]["name"], why)

    def _level(self, place: str, label: str) -> str:
        namespace = self._store.get(kinds.NAMESPACES, "", place) or {"metadata": {}}
        return str(namespace["metadata"].get("labels", {}).get(label, "privileged"))

    def _security(self, pod: Json, place: str) -> None:
        if self._level(place, _ENFORCE) == "restricted" and (found := list(_unrestricted(pod["spec"]))):
            why = 'violates PodSecurity "restricted:latest": ' + ", ".join(found)
            raise forbidden(kinds.PODS, pod["metadata"]["name"], why)

    def _warnings(self, resource: Resource, item: Json, place: str) -> list[str]:
        """Workloads are not held to a profile, their pods are; who asked for warnings gets them."""
        if resource not in _TEMPLATED or self._level(place, _WARN) != "restricted":
            return []
        found = list(_unrestricted(item["spec"]["template"]["spec"]))
        return ['would violate PodSecurity "restricted:latest": ' + ", ".join(found)] if found else []

    def _quota(self, pod: Json, place: str) -> None:
        for quota in self._store.all(kinds.QUOTAS, place):
            hard = quota.get("spec", {}).get("hard", {})
            asked = _usage(pod, hard)
            used = dict.fromkeys(hard, 0.0)
            for other in self._store.all(kinds.PODS, place):
                if other.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                    used = {name: used[name] + amount for name, amount in _usage(other, hard).items()}
            over = [name for name in sorted(hard) if asked[name] and used[name] + asked[name] > quantity(hard[name])]
            if over:
                said = [
                    "requested: " + ",".join(f"{name}={_plain(asked[name])}" for name in over),
                    "used: " + ",".join(f"{name}={_plain(used[name])}" for name in over),
                    "limited: " + ",".join(f"{name}={hard[name]}" for name in over),
                ]
                why = f"exceeded quota: {quota['metadata']['name']}, {', '.join(said)}"
                raise forbidden(kinds.PODS, pod["metadata"]["name"], why)


def _plain(amount: float) -> str:
    return str(int(amount)) if amount == int(amount) else f"{round(amount * 1000)}m"


def _usage(pod: Json, names: Json) -> dict[str, float]:
    """What a pod takes of each thing a quota counts: `pods`, `requests.cpu`, `limits.memory`, `cpu`, `memory`."""
    return {name: _amount(pod, name) for name in names}


def _amount(pod: Json, name: str) -> float:
    if name in {"pods", "count/pods"}:
        return 1.0
    kind, _, what = name.rpartition(".")
    held = [one.get("resources", {}).get(kind or "requests", {}) for one in pod["spec"]["containers"]]
    return float(sum(quantity(one[what]) for one in held if what in one))


def _unrestricted(spec: Json) -> Iterator[str]:
    """What the profile `restricted` has against a pod."""
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    pod: Json = spec.get("securityContext", {})

    def offending(wrong: Callable[[Json], bool]) -> str:
        names = [f'"{one["name"]}"' for one in containers if wrong(one.get("securityContext", {}))]
        return ("container " if len(names) == 1 else "containers ") + ", ".join(names) if names else ""

    if who := offending(lambda one: one.get("privileged") is True):
        yield f"privileged ({who} must not set securityContext.privileged=true)"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces ({name}=true)"
    paths = [f'"{one["name"]}"' for one in spec.get("volumes", ()) if "hostPath" in one]
    if paths:
        yield f'restricted volume types (volume {", ".join(paths)} uses restricted volume type "hostPath")'
    if who := offending(lambda one: one.get("allowPrivilegeEscalation") is not False):
        yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    if who := offending(lambda one: "ALL" not in one.get("capabilities", {}).get("drop", ())):
        yield f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])'
    if who := offending(lambda one: one.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True):
        yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
    if pod.get("runAsUser") == 0 or offending(lambda one: one.get("runAsUser") == 0):
        yield "runAsUser=0 (pod must not set runAsUser=0)"
    if who := offending(lambda one: _profile(one, pod) not in {"RuntimeDefault", "Localhost"}):
        yield (
            f"seccompProfile (pod or {who} must set securityContext.seccompProfile.type to "
            '"RuntimeDefault" or "Localhost")'
        )


def _profile(container: Json, pod: Json) -> str:
    found: Json = container.get("seccompProfile") or pod.get("seccompProfile") or {}
    return str(found.get("type", ""))
