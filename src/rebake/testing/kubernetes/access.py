"""Who asks, and whether that may be: bearer tokens, client certificates, and RBAC over the cluster's own roles.

Source: Kubernetes, "Authenticating", "Using RBAC Authorization"; apiserver
`pkg/endpoints/handlers/responsewriters/errors.go`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import ApiError, Json, forbidden, unauthorized
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.wishes import Place

ADMIN_TOKEN = "admin-of-an-emulated-cluster"
_PUBLIC = frozenset({"/healthz", "/livez", "/readyz", "/version"})
_DISCOVERY = ("/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz")


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        return "system:masters" in self.groups


ANONYMOUS = User("system:anonymous", frozenset({"system:unauthenticated"}))
ADMIN = User("admin", frozenset({"system:masters", "system:authenticated"}))


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is asked for: a verb on a resource, or on a path that is none."""

    verb: str
    resource: Resource | None
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    path: str = ""

    @property
    def place(self) -> Place:
        assert self.resource is not None
        return Place(self.resource, self.namespace, self.name, self.subresource)

    @property
    def what(self) -> str:
        assert self.resource is not None
        return self.resource.plural + (f"/{self.subresource}" if self.subresource else "")


class Access:
    """Attributes: tokens: users by bearer token."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tokens: dict[str, User] = {ADMIN_TOKEN: ADMIN}

    def add_service_account(self, namespace: str, name: str) -> str:
        """A token of an account that need not be there yet."""
        token = f"token-of-{namespace}-{name}"
        groups = {"system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"}
        self.tokens[token] = User(f"system:serviceaccount:{namespace}:{name}", frozenset(groups))
        return token

    def who(self, authorization: str, common_name: str = "", organizations: tuple[str, ...] = ()) -> User:
        """The user of a request: by its certificate, else its token. Raises: ApiError 401."""
        if common_name:
            return User(common_name, frozenset({*organizations, "system:authenticated"}))
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token.strip() not in self.tokens:
            raise unauthorized()
        return self.tokens[token.strip()]

    def check(self, user: User, attempt: Attempt) -> None:
        """Raises: ApiError 403 in the words of RBAC."""
        if not self.allowed(user, attempt):
            raise _forbidden(user, attempt)

    def allowed(self, user: User, attempt: Attempt) -> bool:
        if user.everything:
            return True
        if attempt.resource is None:
            known = "system:authenticated" in user.groups and attempt.path.startswith(_DISCOVERY)
            return attempt.path in _PUBLIC or known
        if attempt.resource == kinds.SELF_REVIEWS and "system:authenticated" in user.groups:
            return True
        return any(_grants(rule, attempt) for rule in self._rules(user, attempt.namespace))

    def review(self, user: User, body: Json) -> Json:
        """The answer to `SelfSubjectAccessReview`: whether the one who asks may do something."""
        asked: Json = body.get("spec", {}).get("resourceAttributes") or {}
        resource = Resource(asked.get("group", ""), asked.get("version", ""), asked.get("resource", ""), "", "")
        where = (asked.get("namespace", ""), asked.get("name", ""), asked.get("subresource", ""))
        allowed = self.allowed(user, Attempt(asked.get("verb", ""), resource, *where))
        return {**body, "metadata": body.get("metadata", {}), "status": {"allowed": allowed}}

    def _rules(self, user: User, namespace: str) -> Iterator[Json]:
        bindings = [(one, "") for one in self._store.all(kinds.CLUSTER_ROLE_BINDINGS)]
        if namespace:
            bindings += [(one, namespace) for one in self._store.all(kinds.ROLE_BINDINGS, namespace)]
        for binding, place in bindings:
            if any(_is(user, subject, place) for subject in binding.get("subjects", ())):
                reference = binding["roleRef"]
                resource = kinds.ROLES if reference["kind"] == "Role" else kinds.CLUSTER_ROLES
                where = place if reference["kind"] == "Role" else ""
                role = self._store.get(resource, where, reference["name"])
                yield from (role or {}).get("rules") or ()


def _is(user: User, subject: Json, namespace: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace', namespace)}:{subject['name']}"
    return subject["name"] in user.groups if subject["kind"] == "Group" else subject["name"] == user.name


def _grants(rule: Json, attempt: Attempt) -> bool:
    assert attempt.resource is not None

    def has(field: str, *wanted: str) -> bool:
        return bool({"*", *wanted} & set(rule.get(field) or ()))

    names = rule.get("resourceNames")
    return (
        has("verbs", attempt.verb)
        and has("apiGroups", attempt.resource.group)
        and has("resources", attempt.what, *((f"*/{attempt.subresource}",) if attempt.subresource else ()))
        and (not names or attempt.name in names)
    )


def _forbidden(user: User, attempt: Attempt) -> ApiError:
    if attempt.resource is None:
        message = f'forbidden: User "{user.name}" cannot {attempt.verb} path "{attempt.path}"'
        return ApiError(403, "Forbidden", message, {})
    where = f'in the namespace "{attempt.namespace}"' if attempt.namespace else "at the cluster scope"
    what = f'cannot {attempt.verb} resource "{attempt.what}" in API group "{attempt.resource.group}" {where}'
    return forbidden(attempt.resource, attempt.name, f'User "{user.name}" {what}')
