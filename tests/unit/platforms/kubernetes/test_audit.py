"""Sessions in pods, as the API server's audit log tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rebake.platforms.kubernetes.audit import AuditLog
from tests.unit.platforms.kubernetes.world import World

POD: dict[str, Any] = {"metadata": {"namespace": "shop", "name": "web-1", "creationTimestamp": "2026-11-30T12:00:00Z"}}


def event(name: str = "web-1", namespace: str = "shop", **changes: Any) -> str:
    """One line as the API server writes it."""
    kind = changes.pop("kind", "exec")
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/{kind}?command=mysql&command=-psecret&stdin=true"
    about = {"resource": "pods", "namespace": namespace, "name": name, "apiVersion": "v1", "subresource": kind}
    whole = {
        "kind": "Event",
        "stage": "ResponseStarted",
        "requestURI": path,
        "user": {"username": "ann", "groups": ["dev"]},
        "objectRef": about,
        "responseStatus": {"code": 101},
        "requestReceivedTimestamp": "2026-11-30T12:00:00.500000Z",
    } | changes
    return json.dumps(whole, separators=(",", ":")) + "\n"


def told(log: AuditLog, pod: Any = POD) -> list[str]:
    log.read()
    return [drift.sentence() for drift in log.drift("f1-1", pod)]


def test_a_session_is_told_with_who_opened_it_and_without_what_was_typed(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_text(event())
    (sentence,) = told(AuditLog(file))
    assert "exec by ann" in sentence
    assert "mysql" in sentence
    assert "secret" not in sentence


def test_what_is_no_session_in_this_pod_counts_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    lines = [
        event("web-2"),
        event(namespace="other"),
        event(kind="portforward"),
        event(stage="RequestReceived"),
        event(responseStatus={"code": 403}),
        event(requestReceivedTimestamp="2026-11-30T11:59:59.900000Z"),
        '{"subresource":"exec"}\n',
        'no object with "subresource":"exec"\n',
        '["subresource":"exec"]\n',
    ]
    file.write_text("".join(lines))
    assert told(AuditLog(file)) == []
    with file.open("a") as more:
        more.write(event(kind="attach"))
    assert len(told(AuditLog(file))) == 1


def test_a_log_is_read_on_across_half_lines_and_when_it_is_moved_away(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    assert told(log) == []
    assert "No such file" in log.problem
    first = event()
    file.write_text(first[:100])
    assert told(log) == []
    assert log.problem == ""
    with file.open("a") as more:
        more.write(first[100:])
    assert len(told(log)) == 1
    with file.open("a") as more:
        more.write(event("web-2"))
    file.rename(tmp_path / "audit-1.log")
    file.write_text(event("web-3"))
    others = [{"metadata": {**POD["metadata"], "name": name}} for name in ("web-2", "web-3")]
    assert [len(told(log, pod)) for pod in others] == [1, 1]
    file.write_text("")
    log.read()
    file.write_text(event("web-4"))
    assert len(told(log, {"metadata": {**POD["metadata"], "name": "web-4"}})) == 1
    log.close()


def test_a_pod_in_which_somebody_opened_a_session_is_a_changed_one(world: World, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    world.wished["audit_log"] = str(file)
    world.raised(world.spec(1), world.spec(2))
    assert any("cannot be read" in one.detail for one in _looked(world).doctor())
    about = world.pod_of("f1-1")["metadata"]
    at = "2100-01-01T00:00:00.000000Z"
    file.write_text(event(about["name"], about["namespace"], requestReceivedTimestamp=at))
    found = {one.id: [d.kind for d in one.drift] for one in world.platform.inspect("shop", "production")}
    assert found == {"f1-1": ["session"], "f1-2": []}
    assert not any("cannot be read" in one.detail for one in world.platform.doctor())


def _looked(world: World) -> Any:
    world.platform.inspect("shop", "production")
    return world.platform
