"""What a Kubernetes API server does, asked of ours; with `KUBECONFIG` the same is asked of a real one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rebake.testing.kubernetes.target import IMAGE, Target, target

pytestmark = pytest.mark.real

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
GATEWAY_API = "gateway.networking.k8s.io/v1"
Json = dict[str, Any]


@pytest.fixture
def at() -> Iterator[Target]:
    with target(os.environ) as found:
        yield found


def config(name: str = "settings", **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name: str = "web", replicas: int | None = 2, **template: Any) -> Json:
    labels = {"app": name}
    pod = {"containers": [{"name": "web", "image": IMAGE}], "terminationGracePeriodSeconds": 1, **template}
    spec: Json = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def apply(at: Target, path: str, body: Json, manager: str, **query: str) -> httpx.Response:
    headers = {"Content-Type": APPLY}
    params = {"fieldManager": manager, **query}
    return at.client.patch(path, content=json.dumps(body), headers=headers, params=params)


def patch(at: Target, path: str, body: object, media: str, **query: str) -> httpx.Response:
    return at.client.patch(path, content=json.dumps(body), headers={"Content-Type": media}, params=query)


def is_status(answer: httpx.Response, code: int, reason: str) -> Json:
    body: Json = answer.json()
    assert answer.status_code == code, body
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert (body["reason"], body["code"]) == (reason, code)
    return body


def causes(body: Json) -> list[tuple[str, str]]:
    return [(one["reason"], one["field"]) for one in body["details"]["causes"]]


def test_an_object_is_made_read_changed_and_deleted(at: Target) -> None:
    made = at.client.post(at.core("configmaps"), json=config(a="1"))
    assert made.status_code == 201
    metadata = made.json()["metadata"]
    assert metadata["namespace"] == at.namespace
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    read = at.client.get(at.core("configmaps", "settings")).json()
    assert read == made.json()
    changed = at.client.put(at.core("configmaps", "settings"), json={**read, "data": {"a": "2"}})
    assert changed.status_code == 200
    assert int(changed.json()["metadata"]["resourceVersion"]) > int(metadata["resourceVersion"])
    gone = at.client.delete(at.core("configmaps", "settings")).json()
    assert gone["status"] == "Success"
    assert gone["details"] == {"name": "settings", "kind": "configmaps", "uid": metadata["uid"]}


def test_what_is_not_there_is_said_to_be_not_there(at: Target) -> None:
    body = is_status(at.client.get(at.of("apps/v1", "deployments", "web")), 404, "NotFound")
    assert body["message"] == 'deployments.apps "web" not found'
    assert body["details"] == {"name": "web", "group": "apps", "kind": "deployments"}


def test_a_path_that_names_nothing(at: Target) -> None:
    body = is_status(at.client.get(at.core("nothings")), 404, "NotFound")
    assert body["message"] == "the server could not find the requested resource"
    answer = at.client.get("/apis/nobody.example/v1")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")


def test_a_name_that_is_taken(at: Target) -> None:
    at.client.post(at.core("configmaps"), json=config())
    body = is_status(at.client.post(at.core("configmaps"), json=config()), 409, "AlreadyExists")
    assert body["message"] == 'configmaps "settings" already exists'


def test_a_stale_version_is_a_conflict(at: Target) -> None:
    first = at.client.post(at.core("configmaps"), json=config(a="1")).json()
    at.client.put(at.core("configmaps", "settings"), json={**first, "data": {"a": "2"}})
    late = at.client.put(at.core("configmaps", "settings"), json={**first, "data": {"a": "3"}})
    body = is_status(late, 409, "Conflict")
    assert body["message"] == (
        'Operation cannot be fulfilled on configmaps "settings": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )


def test_a_write_that_changes_nothing_leaves_the_version(at: Target) -> None:
    first = at.client.post(at.core("configmaps"), json=config(a="1")).json()
    again = at.client.put(at.core("configmaps", "settings"), json=first).json()
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


@pytest.mark.parametrize(("plural", "kind"), [("configmaps", "ConfigMap"), ("secrets", "Secret")])
def test_what_is_immutable_stays(at: Target, plural: str, kind: str) -> None:
    value = {"a": "MQ=="}
    body = {"metadata": {"name": "fixed"}, "data": value, "immutable": True}
    at.client.post(at.core(plural), json=body).raise_for_status()
    refused = is_status(patch(at, at.core(plural, "fixed"), {"data": {"a": "Mg=="}}, MERGE), 422, "Invalid")
    assert causes(refused) == [("FieldValueForbidden", "data")]
    text = "data: Forbidden: field is immutable when `immutable` is set"
    assert refused["message"] == f'{kind} "fixed" is invalid: {text}'
    refused = is_status(patch(at, at.core(plural, "fixed"), {"immutable": None}, MERGE), 422, "Invalid")
    assert causes(refused) == [("FieldValueForbidden", "immutable")]
    assert patch(at, at.core(plural, "fixed"), {"metadata": {"labels": {"a": "b"}}}, MERGE).status_code == 200


def test_a_deployments_selector_never_changes(at: Target) -> None:
    at.client.post(at.of("apps/v1", "deployments"), json=deployment(replicas=0)).raise_for_status()
    other = {"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}}}}
    body = is_status(patch(at, at.of("apps/v1", "deployments", "web"), other, MERGE), 422, "Invalid")
    assert causes(body) == [("FieldValueInvalid", "spec.selector")]
    assert body["message"].startswith('Deployment.apps "web" is invalid: spec.selector: Invalid value: ')
    assert body["message"].endswith(": field is immutable")
    assert body["details"]["kind"] == "Deployment"


def test_a_selector_that_does_not_fit_its_template(at: Target) -> None:
    wrong = deployment()
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    body = is_status(at.client.post(at.of("apps/v1", "deployments"), json=wrong), 422, "Invalid")
    assert causes(body) == [("FieldValueInvalid", "spec.template.metadata.labels")]
    assert body["message"].endswith("`selector` does not match template `labels`")


def test_what_must_be_there_is_named(at: Target) -> None:
    body = {"metadata": {"name": "empty"}, "spec": {"selector": {"app": "a"}}}
    refused = is_status(at.client.post(at.core("services"), json=body), 422, "Invalid")
    assert refused["message"] == 'Service "empty" is invalid: spec.ports: Required value'


def test_a_value_of_the_wrong_type_is_refused_before_anything_else(at: Target) -> None:
    wrong = deployment()
    wrong["spec"]["replicas"] = "two"
    body = is_status(at.client.post(at.of("apps/v1", "deployments"), json=wrong), 400, "BadRequest")
    assert body["message"] == (
        'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into '
        "Go struct field DeploymentSpec.spec.replicas of type int32"
    )


def test_an_unknown_field_is_dropped_with_a_warning_or_refused(at: Target) -> None:
    body = {**config(), "datta": {"a": "1"}}
    warned = at.client.post(at.core("configmaps"), json=body)
    assert warned.status_code == 201
    assert warned.headers["Warning"] == '299 - "unknown field \\"datta\\""'
    assert "datta" not in warned.json()
    strict = at.client.post(
        at.core("configmaps"), json={**body, "metadata": {"name": "b"}}, params={"fieldValidation": "Strict"}
    )
    assert 'strict decoding error: unknown field "datta"' in is_status(strict, 400, "BadRequest")["message"]


def test_a_name_must_be_a_name(at: Target) -> None:
    body = is_status(at.client.post(at.core("configmaps"), json=config("Not_A_Name")), 422, "Invalid")
    assert causes(body) == [("FieldValueInvalid", "metadata.name")]
    assert (
        'metadata.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain must consist of' in body["message"]
    )


def test_nothing_is_made_in_a_namespace_that_is_not_there(at: Target) -> None:
    body = is_status(at.client.post("/api/v1/namespaces/nowhere-at-all/configmaps", json=config()), 404, "NotFound")
    assert body["message"] == 'namespaces "nowhere-at-all" not found'


def test_a_dry_run_answers_and_changes_nothing(at: Target) -> None:
    made = at.client.post(at.core("configmaps"), json=config(a="1"), params={"dryRun": "All"})
    assert made.status_code == 201
    assert made.json()["metadata"]["uid"]
    assert at.client.get(at.core("configmaps", "settings")).status_code == 404


def test_generation_counts_wishes_and_not_statuses_or_labels(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    made = at.client.post(at.of("apps/v1", "deployments"), json=deployment(replicas=0)).json()
    assert made["metadata"]["generation"] == 1
    labelled = patch(at, path, {"metadata": {"labels": {"a": "b"}}}, MERGE).json()
    assert labelled["metadata"]["generation"] == 1
    assert patch(at, path, {"spec": {"minReadySeconds": 3}}, MERGE).json()["metadata"]["generation"] == 2
    ignored = patch(at, path, {"status": {"replicas": 77}}, MERGE).json()
    assert ignored.get("status", {}).get("replicas") != 77
    at.until(lambda: at.client.get(path).json()["status"].get("observedGeneration") == 2)


def test_apply_makes_an_object_and_takes_what_it_names(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    made = apply(at, path, deployment(replicas=0), "rebake")
    assert made.status_code == 201
    rows = [one for one in made.json()["metadata"]["managedFields"] if one["manager"] == "rebake"]
    assert [(one["operation"], one["apiVersion"], one["fieldsType"]) for one in rows] == [
        ("Apply", "apps/v1", "FieldsV1")
    ]
    spec = rows[0]["fieldsV1"]["f:spec"]
    assert spec["f:replicas"] == {}
    assert spec["f:selector"] == {}
    containers = spec["f:template"]["f:spec"]["f:containers"]
    assert containers == {'k:{"name":"web"}': {".": {}, "f:image": {}, "f:name": {}}}
    again = apply(at, path, deployment(replicas=0), "rebake")
    assert again.status_code == 200
    fields = [one["fieldsV1"] for one in again.json()["metadata"]["managedFields"] if one["manager"] == "rebake"]
    assert fields == [rows[0]["fieldsV1"]]


def test_a_conflict_of_appliers_lists_field_and_manager(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    apply(at, path, deployment(replicas=0), "rebake").raise_for_status()
    rival = deployment(replicas=1)
    body = is_status(apply(at, path, rival, "rival"), 409, "Conflict")
    assert body["message"] == 'Apply failed with 1 conflict: conflict with "rebake": .spec.replicas'
    expected = {"reason": "FieldManagerConflict", "message": 'conflict with "rebake"', "field": ".spec.replicas"}
    assert body["details"]["causes"] == [expected]
    rival["spec"]["template"]["spec"]["containers"][0]["image"] = "example.org/other:1"
    body = is_status(apply(at, path, rival, "rival"), 409, "Conflict")
    assert body["message"] == (
        'Apply failed with 2 conflicts: conflicts with "rebake":\n- .spec.replicas\n'
        '- .spec.template.spec.containers[name="web"].image'
    )


def test_a_conflict_with_one_who_updated_says_by_which_version(at: Target) -> None:
    at.client.post(at.core("configmaps"), json=config(a="1"), params={"fieldManager": "someone"})
    body = is_status(apply(at, at.core("configmaps", "settings"), config(a="2"), "rebake"), 409, "Conflict")
    assert body["message"] == 'Apply failed with 1 conflict: conflict with "someone" using v1: .data.a'


def test_force_takes_a_field_and_the_other_loses_it(at: Target) -> None:
    path = at.core("configmaps", "settings")
    apply(at, path, config(a="1", b="1"), "first").raise_for_status()
    taken = apply(at, path, config(a="2"), "second", force="true")
    assert taken.status_code == 200
    assert taken.json()["data"] == {"a": "2", "b": "1"}
    fields = {one["manager"]: one["fieldsV1"]["f:data"] for one in taken.json()["metadata"]["managedFields"]}
    assert fields == {"first": {"f:b": {}}, "second": {"f:a": {}}}


def test_the_same_value_is_shared_and_stays_until_the_last_lets_go(at: Target) -> None:
    path = at.core("configmaps", "settings")
    apply(at, path, config(a="1", b="1"), "first").raise_for_status()
    assert apply(at, path, config(a="1"), "second").status_code == 200
    assert apply(at, path, config(b="1"), "first").json()["data"] == {"a": "1", "b": "1"}
    assert apply(at, path, config(c="1"), "second").json()["data"] == {"b": "1", "c": "1"}


def test_what_an_applier_no_longer_names_is_removed_with_its_list_element(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    two = deployment(replicas=0)
    two["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": IMAGE})
    apply(at, path, two, "rebake").raise_for_status()
    one = apply(at, path, deployment(replicas=0), "rebake").json()
    assert [c["name"] for c in one["spec"]["template"]["spec"]["containers"]] == ["web"]


def test_an_autoscalers_replicas_are_left_alone_by_who_does_not_name_them(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    apply(at, path, deployment(replicas=1), "rebake").raise_for_status()
    scale = {"spec": {"replicas": 3}}
    assert patch(at, f"{path}/scale", scale, MERGE, fieldManager="scaler").json()["spec"]["replicas"] == 3
    after = apply(at, path, deployment(replicas=None), "rebake").json()
    assert after["spec"]["replicas"] == 3
    row = next(one for one in after["metadata"]["managedFields"] if one["manager"] == "scaler")
    assert (row["subresource"], row["fieldsV1"]) == ("scale", {"f:spec": {"f:replicas": {}}})
    body = is_status(apply(at, path, deployment(replicas=1), "rebake"), 409, "Conflict")
    assert 'conflict with "scaler" with subresource "scale" using apps/v1: ' in body["message"]


def test_who_scales_what_nobody_manages_does_not_manage_it_either(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    apply(at, path, deployment(replicas=None), "rebake").raise_for_status()
    patch(at, f"{path}/scale", {"spec": {"replicas": 3}}, MERGE, fieldManager="scaler").raise_for_status()
    after = at.client.get(path).json()
    assert after["spec"]["replicas"] == 3
    assert "scaler" not in {one["manager"] for one in after["metadata"]["managedFields"]}
    assert apply(at, path, deployment(replicas=1), "rebake").json()["spec"]["replicas"] == 1


def test_what_nobody_manages_is_followed_from_the_first_apply_on(at: Target) -> None:
    path = at.core("configmaps", "settings")
    apply(at, path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}, "rebake")
    changed = patch(at, path, {"data": {"a": "1"}}, MERGE, fieldManager="someone").json()
    assert "managedFields" not in changed["metadata"]
    applied = apply(at, path, config(b="2"), "rebake").json()
    rows = {one["manager"]: (one["operation"], one["fieldsV1"]) for one in applied["metadata"]["managedFields"]}
    assert rows == {
        "rebake": ("Apply", {"f:data": {"f:b": {}}}),
        "before-first-apply": ("Update", {"f:data": {".": {}, "f:a": {}}}),
    }
    body = is_status(apply(at, path, config(a="2"), "rebake"), 409, "Conflict")
    assert body["details"]["causes"][0]["message"] == 'conflict with "before-first-apply" using v1'


def test_apply_needs_a_manager_and_only_apply_can_force(at: Target) -> None:
    path = at.core("configmaps", "settings")
    body = is_status(patch(at, path, config(), APPLY), 422, "Invalid")
    text = "fieldManager: Required value: is required for apply patch"
    assert body["message"] == f'PatchOptions.meta.k8s.io "" is invalid: {text}'
    at.client.post(at.core("configmaps"), json=config())
    body = is_status(patch(at, path, {}, MERGE, force="true"), 422, "Invalid")
    assert "force: Forbidden: may not be specified for non-apply patch" in body["message"]


def test_who_applies_nothing_manages_nothing(at: Target) -> None:
    body: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}
    made = apply(at, at.core("configmaps", "settings"), body, "rebake")
    assert made.status_code == 201
    assert "managedFields" not in made.json()["metadata"]


def test_an_element_that_is_named_twice_is_refused(at: Target) -> None:
    body = deployment(replicas=0)
    body["spec"]["template"]["spec"]["containers"] *= 2
    refused = apply(at, at.of("apps/v1", "deployments", "web"), body, "rebake").json()
    assert 'duplicate entries for key [name="web"]' in refused["message"]


def test_apply_refuses_a_field_that_no_schema_knows(at: Target) -> None:
    body = apply(at, at.core("configmaps", "settings"), {**config(), "datta": {}}, "rebake").json()
    assert ".datta: field not declared in schema" in body["message"]


def test_json_patch_does_its_steps_or_none(at: Target) -> None:
    path = at.core("configmaps", "settings")
    at.client.post(at.core("configmaps"), json=config(a="1", b="1"))
    steps: list[Json] = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "replace", "path": "/data/a", "value": "2"},
        {"op": "remove", "path": "/data/b"},
        {"op": "add", "path": "/data/c~1d", "value": "3"},
    ]
    bad = is_status(patch(at, path, [*steps[1:], {**steps[0], "value": "9"}], JSON_PATCH), 422, "Invalid")
    assert bad["message"] == "the server rejected our request due to an error in our request"
    assert at.client.get(path).json()["data"] == {"a": "1", "b": "1"}
    refused = is_status(patch(at, path, steps, JSON_PATCH), 422, "Invalid")
    assert "data[c/d]" in refused["message"]
    assert patch(at, path, steps[:3], JSON_PATCH).json()["data"] == {"a": "2"}


def test_a_merge_patch_replaces_lists_and_a_strategic_one_merges_them(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    at.client.post(at.of("apps/v1", "deployments"), json=deployment(replicas=0)).raise_for_status()
    side = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": IMAGE}]}}}}

    def names(answer: httpx.Response) -> list[str]:
        return sorted(one["name"] for one in answer.json()["spec"]["template"]["spec"]["containers"])

    assert names(patch(at, path, side, STRATEGIC)) == ["side", "web"]
    gone = {"spec": {"template": {"spec": {"containers": [{"name": "web", "$patch": "delete"}]}}}}
    assert names(patch(at, path, gone, STRATEGIC)) == ["side"]
    other = {"spec": {"template": {"spec": {"containers": [{"name": "other", "image": IMAGE}]}}}}
    assert names(patch(at, path, other, MERGE)) == ["other"]


def test_a_patch_of_no_known_kind(at: Target) -> None:
    at.client.post(at.core("configmaps"), json=config())
    body = is_status(patch(at, at.core("configmaps", "settings"), {}, "text/plain"), 415, "UnsupportedMediaType")
    assert body["message"] == "415: Unsupported Media Type"


def test_an_answer_in_no_known_form(at: Target) -> None:
    answer = at.client.get(at.core("configmaps"), headers={"Accept": "application/xml"})
    said = is_status(answer, 406, "NotAcceptable")["message"]
    assert said.startswith("406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, ")


def test_a_patch_against_a_version_that_is_gone(at: Target) -> None:
    path = at.core("configmaps", "settings")
    version = at.client.post(at.core("configmaps"), json=config(a="1")).json()["metadata"]["resourceVersion"]
    patch(at, path, {"data": {"a": "2"}}, MERGE).raise_for_status()
    stale = {"metadata": {"resourceVersion": version}}
    is_status(patch(at, path, {**stale, "data": {"a": "3"}}, MERGE), 409, "Conflict")
    body = config(a="2")
    body["metadata"] |= stale["metadata"]
    is_status(apply(at, path, body, "rebake", force="true"), 409, "Conflict")


def test_a_body_that_is_of_another_name_place_or_kind(at: Target) -> None:
    made = at.client.post(at.core("configmaps"), json=config()).json()
    renamed = {**made, "metadata": {**made["metadata"], "name": "other"}}
    body = is_status(at.client.put(at.core("configmaps", "settings"), json=renamed), 400, "BadRequest")
    assert body["message"] == "the name of the object (other) does not match the name on the URL (settings)"
    elsewhere = {**made, "metadata": {**made["metadata"], "namespace": "default"}}
    body = is_status(at.client.put(at.core("configmaps", "settings"), json=elsewhere), 400, "BadRequest")
    assert body["message"] == "the namespace of the provided object does not match the namespace sent on the request"
    moved = config("moved")
    moved["metadata"]["namespace"] = "default"
    body = is_status(at.client.post(at.core("configmaps"), json=moved), 400, "BadRequest")
    assert body["message"] == "the namespace of the provided object does not match the namespace sent on the request"
    is_status(at.client.post(at.core("configmaps"), json=deployment()), 400, "BadRequest")


def test_who_does_not_say_who_it_is_is_known_by_its_program(at: Target) -> None:
    headers = {"User-Agent": "rebake/1.0 (linux)"}
    made = at.client.post(at.core("configmaps"), json=config(a="1"), headers=headers).json()
    row = made["metadata"]["managedFields"][0]
    assert (row["manager"], row["operation"]) == ("rebake", "Update")
    assert row["fieldsV1"] == {"f:data": {".": {}, "f:a": {}}}


def test_many_are_deleted_at_once_by_their_label(at: Target) -> None:
    for name, group in (("a", "x"), ("b", "x"), ("c", "y")):
        body = config(name)
        body["metadata"]["labels"] = {"group": group}
        at.client.post(at.core("configmaps"), json=body).raise_for_status()
    at.client.delete(at.core("configmaps"), params={"labelSelector": "group=x"}).raise_for_status()
    left = at.client.get(at.core("configmaps"), params={"labelSelector": "group"}).json()["items"]
    assert [one["metadata"]["name"] for one in left] == ["c"]


def test_a_generated_name(at: Target) -> None:
    body: Json = {"metadata": {"generateName": "settings-"}}
    name = at.client.post(at.core("configmaps"), json=body).json()["metadata"]["name"]
    assert name.startswith("settings-")
    assert len(name) == len("settings-") + 5


def test_a_method_that_is_not_allowed(at: Target) -> None:
    is_status(at.client.put(at.core("configmaps"), json=config()), 405, "MethodNotAllowed")


def test_lists_by_label_and_field_and_in_pages(at: Target) -> None:
    for number in range(5):
        body = config(f"c{number}")
        body["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd", "of": "us"}
        at.client.post(at.core("configmaps"), json=body).raise_for_status()

    def names(**query: str) -> list[str]:
        found = at.client.get(at.core("configmaps"), params=query).json()
        assert found["kind"] == "ConfigMapList"
        return [one["metadata"]["name"] for one in found["items"]]

    assert names(labelSelector="parity=even") == ["c0", "c2", "c4"]
    assert names(labelSelector="of=us,parity in (odd)") == ["c1", "c3"]
    assert names(labelSelector="of,parity!=odd") == ["c0", "c2", "c4"]
    assert names(fieldSelector="metadata.name=c3") == ["c3"]
    first = at.client.get(at.core("configmaps"), params={"labelSelector": "of=us", "limit": "2"}).json()
    at.client.delete(at.core("configmaps", "c3"))
    token = first["metadata"]["continue"]
    query = {"labelSelector": "of=us", "limit": "2", "continue": token}
    second = at.client.get(at.core("configmaps"), params=query).json()
    assert [one["metadata"]["name"] for one in second["items"]] == ["c2", "c3"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_a_field_that_cannot_be_selected_by(at: Target) -> None:
    is_status(at.client.get(at.core("pods"), params={"fieldSelector": "spec.hostname=a"}), 400, "BadRequest")


def _watch(at: Target, path: str, count: int, **query: str) -> list[Json]:
    found: list[Json] = []
    with at.client.stream("GET", path, params={"watch": "true", "timeoutSeconds": "30", **query}) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            found.append(json.loads(line))
            if len(found) == count:
                break
    return found


def test_a_watch_tells_what_happened_since_a_version(at: Target) -> None:
    path = at.core("configmaps", "settings")
    since = at.client.get(at.core("configmaps")).json()["metadata"]["resourceVersion"]
    at.client.post(at.core("configmaps"), json=config(a="1"))
    patch(at, path, {"data": {"a": "2"}}, MERGE)
    at.client.delete(path)
    events = _watch(at, at.core("configmaps"), 3, resourceVersion=since, fieldSelector="metadata.name=settings")
    assert [one["type"] for one in events] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in events]
    assert versions == sorted(set(versions))


def test_a_watch_by_label_sees_an_object_come_and_go_with_its_label(at: Target) -> None:
    path = at.core("configmaps", "settings")
    since = at.client.get(at.core("configmaps")).json()["metadata"]["resourceVersion"]
    at.client.post(at.core("configmaps"), json=config())
    patch(at, path, {"metadata": {"labels": {"in": "yes"}}}, MERGE)
    patch(at, path, {"metadata": {"labels": None}}, MERGE)
    events = _watch(at, at.core("configmaps"), 2, resourceVersion=since, labelSelector="in=yes")
    assert [one["type"] for one in events] == ["ADDED", "DELETED"]


def test_a_list_that_streams_ends_its_beginning_with_a_bookmark(at: Target) -> None:
    at.client.post(at.core("configmaps"), json=config())
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    events = _watch(at, at.core("configmaps"), 2, fieldSelector="metadata.name=settings", **query)
    assert [one["type"] for one in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_finalizer_holds_what_is_deleted(at: Target) -> None:
    body = config()
    body["metadata"]["finalizers"] = ["example.org/hold"]
    path = at.core("configmaps", "settings")
    at.client.post(at.core("configmaps"), json=body).raise_for_status()
    assert at.client.delete(path).json()["kind"] == "ConfigMap"
    held = at.client.get(path).json()
    assert held["metadata"]["deletionTimestamp"]
    patch(at, path, {"metadata": {"finalizers": None}}, MERGE)
    assert at.client.get(path).status_code == 404


def test_a_deletion_of_another_than_was_meant(at: Target) -> None:
    uid = at.client.post(at.core("configmaps"), json=config()).json()["metadata"]["uid"]
    body = {"preconditions": {"uid": "another"}}
    refused = is_status(at.client.request("DELETE", at.core("configmaps", "settings"), json=body), 409, "Conflict")
    assert refused["message"] == (
        f'Operation cannot be fulfilled on ConfigMap "settings": the UID in the precondition (another) does not match '
        f"the UID in record ({uid}). The object might have been deleted and then recreated"
    )
    assert refused["details"] == {"name": "settings", "kind": "ConfigMap"}
    body = {"preconditions": {"resourceVersion": "1"}}
    refused = is_status(at.client.request("DELETE", at.core("configmaps", "settings"), json=body), 409, "Conflict")
    assert "the ResourceVersion in the precondition (1) does not match" in refused["message"]


def test_a_change_of_another_than_was_meant(at: Target) -> None:
    made = at.client.post(at.core("configmaps"), json=config()).json()
    path, other = at.core("configmaps", "settings"), {"name": "settings", "uid": "another"}
    for answer in (patch(at, path, {"metadata": other}, MERGE), apply(at, path, {**config(), "metadata": other}, "a")):
        assert set(causes(is_status(answer, 422, "Invalid"))) == {("FieldValueInvalid", "metadata.uid")}
    body = is_status(at.client.put(path, json={**made, "metadata": {**made["metadata"], **other}}), 409, "Conflict")
    assert "Precondition failed: UID in precondition: another, UID in object meta: " in body["message"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        *(("1000m", "1"), ("1500m", "1500m"), ("0.5", "500m"), (1, "1"), (0.25, "250m")),
        *(("1000000000", "1G"), ("1048576", "1048576"), ("1048576000", "1048576k"), ("100000k", "100M")),
        *(("1024Ki", "1Mi"), ("1.5Gi", "1536Mi"), ("0.5Ki", "512"), ("5120Mi", "5Gi"), ("2000Mi", "2000Mi")),
        *(("1e9", "1e9"), ("0m", "0")),
    ],
)
def test_an_amount_comes_back_in_its_canonical_form(at: Target, sent: object, kept: str) -> None:
    body = deployment(replicas=0)
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": sent}}
    made = at.client.post(at.of("apps/v1", "deployments"), json=body, params={"dryRun": "All"}).json()
    assert made["spec"]["template"]["spec"]["containers"][0]["resources"] == {"limits": {"memory": kept}}


@pytest.mark.parametrize("policy", ["Background", "Foreground", "Orphan"])
def test_dependents_go_with_their_owner_unless_orphaned(at: Target, policy: str) -> None:
    owner = at.client.post(at.core("configmaps"), json=config("owner")).json()
    child = config("child")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    child["metadata"]["ownerReferences"] = [{**reference, "blockOwnerDeletion": True}]
    at.client.post(at.core("configmaps"), json=child).raise_for_status()
    at.client.request("DELETE", at.core("configmaps", "owner"), json={"propagationPolicy": policy})
    at.until(lambda: at.client.get(at.core("configmaps", "owner")).status_code == 404)
    if policy == "Orphan":
        assert "ownerReferences" not in at.client.get(at.core("configmaps", "child")).json()["metadata"]
    else:
        at.until(lambda: at.client.get(at.core("configmaps", "child")).status_code == 404)


def test_a_deployment_rolls_out_and_says_so(at: Target) -> None:
    path = at.of("apps/v1", "deployments", "web")
    apply(at, path, deployment(), "rebake").raise_for_status()

    def done() -> bool:
        status: Json = at.client.get(path).json().get("status", {})
        rows = {one["type"]: one for one in status.get("conditions", ())}
        progress: Json = rows.get("Progressing", {})
        return status.get("availableReplicas") == 2 and bool(progress.get("reason") == "NewReplicaSetAvailable")

    at.until(done)
    pods = at.client.get(at.core("pods"), params={"labelSelector": "app=web"}).json()["items"]
    assert len(pods) == 2
    assert all("pod-template-hash" in one["metadata"]["labels"] for one in pods)
    assert {one["metadata"]["ownerReferences"][0]["kind"] for one in pods} == {"ReplicaSet"}


def test_a_service_has_endpoints_of_ready_pods(at: Target) -> None:
    apply(at, at.of("apps/v1", "deployments", "web"), deployment(), "rebake").raise_for_status()
    service = {
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    at.client.post(at.core("services"), json=service).raise_for_status()
    path, query = at.of("discovery.k8s.io/v1", "endpointslices"), {"labelSelector": "kubernetes.io/service-name=web"}

    def ready() -> list[Json]:
        slices = at.client.get(path, params=query).json()["items"]
        return [one for part in slices for one in part["endpoints"] or () if one["conditions"]["ready"]]

    at.until(lambda: len(ready()) == 2)
    assert ready()[0]["targetRef"]["kind"] == "Pod"


def test_an_eviction_that_would_break_a_budget_waits(at: Target) -> None:
    apply(at, at.of("apps/v1", "deployments", "web"), deployment(), "rebake").raise_for_status()
    budget = {"metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}}
    at.client.post(at.of("policy/v1", "poddisruptionbudgets"), json=budget).raise_for_status()
    path = at.of("policy/v1", "poddisruptionbudgets", "web")
    at.until(lambda: at.client.get(path).json().get("status", {}).get("currentHealthy") == 2)
    pod = at.client.get(at.core("pods"), params={"labelSelector": "app=web"}).json()["items"][0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": at.namespace}}
    body = is_status(at.client.post(at.core("pods", pod, "eviction"), json=eviction), 429, "TooManyRequests")
    assert body["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    text = "The disruption budget web needs 2 healthy pods and has 2 currently"
    assert body["details"]["causes"] == [{"reason": "DisruptionBudget", "message": text}]
    patch(at, path, {"spec": {"minAvailable": 1}}, MERGE).raise_for_status()
    at.until(lambda: at.client.get(path).json()["status"].get("disruptionsAllowed") == 1)
    assert at.client.post(at.core("pods", pod, "eviction"), json=eviction).status_code == 201


def route(**spec: Any) -> Json:
    backends = [{"name": "a", "port": 80}]
    body = {"parentRefs": [], "rules": [{"backendRefs": backends}], **spec}
    return {"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": "web"}, "spec": body}


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        ({"rules": []}, "spec.rules", "Invalid value: 0: spec.rules in body should have at least 1 items"),
        (
            {"rules": [{"backendRefs": [{"name": "a", "port": 80, "weight": -1}]}]},
            "spec.rules[0].backendRefs[0].weight",
            "Invalid value: -1: spec.rules[0].backendRefs[0].weight in body should be greater than or equal to 0",
        ),
    ],
)
def test_a_route_out_of_its_bounds(at: Target, spec: Json, field: str, said: str) -> None:
    if at.client.get(f"/apis/{GATEWAY_API}").status_code == 404:
        pytest.skip("the cluster has no Gateway API")
    body = is_status(at.client.post(at.of(GATEWAY_API, "httproutes"), json=route(**spec)), 422, "Invalid")
    assert body["message"] == f'HTTPRoute.gateway.networking.k8s.io "web" is invalid: {field}: {said}'


def test_a_routes_defaults_are_filled_in_and_seem_no_change_to_who_applied_it(at: Target) -> None:
    if at.client.get(f"/apis/{GATEWAY_API}").status_code == 404:
        pytest.skip("the cluster has no Gateway API")
    path = at.of(GATEWAY_API, "httproutes", "web")
    made = apply(at, path, route(), "rebake").json()
    whole = {"type": "PathPrefix", "value": "/"}
    backend = {"group": "", "kind": "Service", "name": "a", "port": 80, "weight": 1}
    assert made["spec"]["rules"] == [{"matches": [{"path": whole}], "backendRefs": [backend]}]
    again = apply(at, path, route(rules=made["spec"]["rules"]), "rebake").json()
    assert again["metadata"]["generation"] == 1
    without = apply(at, path, route(rules=[{"matches": [{"path": whole}], "backendRefs": []}]), "rebake").json()
    assert without["spec"]["rules"][0]["backendRefs"] == []


def test_what_there_is_can_be_discovered(at: Target) -> None:
    assert "v1" in at.client.get("/api").json()["versions"]
    groups = {one["name"] for one in at.client.get("/apis").json()["groups"]}
    assert {"apps", "policy", "discovery.k8s.io", "rbac.authorization.k8s.io"} <= groups
    rows = {one["name"]: one for one in at.client.get("/apis/apps/v1").json()["resources"]}
    assert rows["deployments"]["kind"] == "Deployment"
    assert rows["deployments/scale"]["kind"] == "Scale"
    assert at.client.get("/version").json()["gitVersion"].startswith("v1.")
