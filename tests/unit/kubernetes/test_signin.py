"""Signing in: kubeconfigs, contexts, the pod's own account, exec plugins, certificates; and what is missing is said."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rebake.errors import Permanent
from rebake.kubernetes import kubeconfig
from rebake.kubernetes.client import KubeClient
from rebake.kubernetes.resources import PODS
from rebake.kubernetes.signin import sign_in
from rebake.testing.kubernetes import ADMIN_TOKEN, Cluster, Identity, NoOpenssl


def _pods(kubeconfig: Path | None, environ: Mapping[str, str] | None = None, context: str | None = None) -> int:
    """How many pods are seen: an answer that needs to be signed in for."""
    client = KubeClient(sign_in(str(kubeconfig) if kubeconfig else None, context, environ or {}))
    try:
        return len(client.find(PODS, client.namespace)[0])
    finally:
        client.close()


def _plugin(folder: Path, answer: Mapping[str, Any] | str, code: int = 0) -> Path:
    """A program like those of the clouds; it writes down how often and with what it was asked."""
    path = folder / "get-token"
    text = answer if isinstance(answer, str) else json.dumps(answer)
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"open({str(folder / 'asked')!r}, 'a').write(os.environ['KUBERNETES_EXEC_INFO'] + '\\n')\n"
        f"print({text!r})\nsys.stderr.write('please sign in\\n')\nsys.exit({code})\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _with_exec(cluster: Cluster, folder: Path, command: str, version: str = "v1") -> Path:
    doc = cluster.kubeconfig()
    plugin = {"apiVersion": f"client.authentication.k8s.io/{version}", "command": command, "args": ["--x"]}
    doc["users"][0]["user"] = {"exec": {**plugin, "installHint": "install the cloud's tool", "env": None}}
    path = folder / "config"
    path.write_text(json.dumps(doc))
    return path


def _credential(token: str, until: str = "2100-01-01T00:00:00Z") -> dict[str, Any]:
    status = {"token": token, "expirationTimestamp": until}
    return {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}


def test_a_kubeconfig_by_its_path_by_the_environment_and_at_its_usual_place(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cluster.write_kubeconfig(tmp_path / "config")
    assert _pods(path) == 0
    assert _pods(None, {"KUBECONFIG": str(path)}) == 0
    assert _pods(None, {"KUBECONFIG": f"{tmp_path}/none:{path}"}, "emulated") == 0
    (tmp_path / ".kube").mkdir()
    shutil.copy(path, tmp_path / ".kube" / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _pods(None) == 0


def test_a_context_and_a_file_that_are_not_there_are_named(cluster: Cluster, tmp_path: Path) -> None:
    path = cluster.write_kubeconfig(tmp_path / "config")
    with pytest.raises(Permanent, match=r"expected the context prod in .*, found emulated") as refused:
        sign_in(str(path), "prod", {})
    assert refused.value.code == "kubeconfig-context"
    with pytest.raises(Permanent, match="No such file") as refused:
        sign_in(str(tmp_path / "none"), None, {})
    assert refused.value.code == "kubeconfig-unusable"
    (tmp_path / "torn").write_text("clusters: [")
    with pytest.raises(Permanent) as refused:
        sign_in(str(tmp_path / "torn"), None, {})
    assert refused.value.code == "kubeconfig-unusable"


def test_inside_a_pod_its_account_signs_in_and_a_new_token_is_read(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("of yesterday\n")
    (account / "namespace").write_text("default")
    try:
        shutil.copy(Identity.authority(tmp_path).file, account / "ca.crt")
    except NoOpenssl as missing:
        pytest.skip(str(missing))
    host, port = cluster.url.removeprefix("http://").split(":")
    monkeypatch.setattr(kubeconfig, "ACCOUNT", account)
    sign = sign_in(None, None, {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port})
    assert (sign.server, sign.namespace) == (f"https://{host}:{port}", "default")
    doc = cluster.kubeconfig()
    doc["users"][0]["user"] = {"tokenFile": str(account / "token")}
    (tmp_path / "config").write_text(json.dumps(doc))
    client = KubeClient(sign_in(str(tmp_path / "config"), None, {}))
    with pytest.raises(Permanent) as refused:
        client.find(PODS, "default")
    assert refused.value.code == "kubernetes-unauthorized"
    (account / "token").write_text(f"{ADMIN_TOKEN}\n")
    assert client.find(PODS, "default")[0] == []
    client.close()


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_an_exec_plugin_is_asked_once_and_told_that_nobody_sits_there(
    cluster: Cluster, tmp_path: Path, version: str
) -> None:
    path = _with_exec(cluster, tmp_path, str(_plugin(tmp_path, _credential(ADMIN_TOKEN))), version)
    client = KubeClient(sign_in(str(path), None, {}))
    for _ in range(3):
        client.find(PODS, "default")
    client.close()
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    info = json.loads(asked)
    assert info["spec"] == {"interactive": False, "cluster": {"server": cluster.url}}
    assert info["apiVersion"].endswith(version)


def test_a_token_that_ends_is_renewed_before_it_does(cluster: Cluster, tmp_path: Path) -> None:
    ended = _credential(ADMIN_TOKEN, "2020-01-01T00:00:00Z")
    client = KubeClient(sign_in(str(_with_exec(cluster, tmp_path, str(_plugin(tmp_path, ended)))), None, {}))
    client.find(PODS, "default")
    client.find(PODS, "default")
    client.close()
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_a_token_that_is_refused_is_asked_for_once_more(cluster: Cluster, tmp_path: Path) -> None:
    client = KubeClient(sign_in(str(_with_exec(cluster, tmp_path, str(_plugin(tmp_path, _credential("x"))))), None, {}))
    with pytest.raises(Permanent) as refused:
        client.find(PODS, "default")
    assert refused.value.code == "kubernetes-unauthorized"
    assert "kubectl auth whoami" in (refused.value.remedy or "")
    client.close()
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("answer", "code", "expected", "says"),
    [
        (_credential("x"), 1, "exec-plugin-failed", "exit 1: please sign in"),
        ("no JSON", 0, "exec-plugin-answer", "expected an ExecCredential"),
        ({"status": {"clientCertificateData": "…"}}, 0, "exec-plugin-answer", "with a token"),
    ],
)
def test_a_plugin_that_gives_nothing_is_named(
    cluster: Cluster, tmp_path: Path, answer: Any, code: int, expected: str, says: str
) -> None:
    with pytest.raises(Permanent) as refused:
        _pods(_with_exec(cluster, tmp_path, str(_plugin(tmp_path, answer, code))))
    assert refused.value.code == expected
    assert says in refused.value.problem


def test_a_plugin_that_is_not_installed_says_what_its_makers_say(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(Permanent) as refused:
        _pods(_with_exec(cluster, tmp_path, "no-such-cloud-tool"))
    assert (refused.value.code, refused.value.remedy) == ("exec-plugin-missing", "install the cloud's tool")
    with pytest.raises(Permanent) as refused:
        _pods(_with_exec(cluster, tmp_path, "no-such-cloud-tool", "v1alpha1"))
    assert refused.value.code == "exec-plugin-version"


def test_a_client_certificate_signs_in_over_tls(tmp_path: Path) -> None:
    try:
        authority = Identity.authority(tmp_path)
    except NoOpenssl as missing:
        pytest.skip(str(missing))
    engineer = authority.client(tmp_path, "engineer", "system:masters")
    with Cluster(certificate=authority) as cluster:
        path = tmp_path / "config"
        path.write_text(json.dumps(cluster.kubeconfig(client=engineer)))
        assert _pods(path) == 0
        path.write_text(json.dumps(cluster.kubeconfig(token="nobody's")))
        with pytest.raises(Permanent) as refused:
            _pods(path)
        assert refused.value.code == "kubernetes-unauthorized"


def test_an_old_auth_provider_is_refused_by_name(cluster: Cluster, tmp_path: Path) -> None:
    doc = cluster.kubeconfig()
    doc["users"][0]["user"] = {"auth-provider": {"name": "gcp"}}
    (tmp_path / "config").write_text(json.dumps(doc))
    with pytest.raises(Permanent, match="found auth-provider gcp"):
        sign_in(str(tmp_path / "config"), None, {})
