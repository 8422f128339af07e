"""`isthmus` as operators run it, against the controller: both outputs and the documented exit codes."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from certs.core.token import parse_token
from tests.integration.controller.installation import ISTHMUS, Controller

Run = Callable[..., "subprocess.CompletedProcess[str]"]
POLICY = """\
apiVersion: federation.isthmus.dev/v1alpha1
kind: ExportPolicy
metadata: {name: cli, namespace: shop}
spec: {services: [%s]}
"""


@pytest.fixture
def isthmus(controller: Controller) -> Run:
    def run(
        *arguments: str, context: Path | None = None, text: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        place = context or controller.installation.context
        done = subprocess.run(
            [*ISTHMUS, *arguments],
            env={**os.environ, "ISTHMUS_CONTEXT": str(place)},
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def ok(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done: "subprocess.CompletedProcess[str]", code: int, message: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("isthmus: ")
    assert message in done.stderr


def test_an_object_is_created_configured_shown_and_deleted(isthmus: Run, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY % "orders")
    assert ok(isthmus("apply", "-f", str(path))) == "exportpolicy/cli created\n"
    changed = json.loads(ok(isthmus("apply", "-f", "-", "-o", "json", text=POLICY % '"*"')))
    assert (changed["metadata"]["generation"], changed["spec"]) == (2, {"services": ["*"]})
    shown = json.loads(ok(isthmus("get", "exportpolicies", "cli", "-n", "shop", "-o", "json")))
    assert shown == changed
    table = ok(isthmus("get", "exportpolicies")).splitlines()
    assert table[0].split() == ["CLUSTER", "NAMESPACE", "NAME", "REVISION", "CREATED", "CONDITIONS"]
    assert ["alpha", "shop", "cli", shown["metadata"]["resourceVersion"]] in [
        row.split()[:4] for row in table
    ]
    stale = json.dumps({**changed, "metadata": {**changed["metadata"], "resourceVersion": "1"}})
    refused(isthmus("apply", "-f", "-", text=stale), 4, "is at revision")
    assert ok(isthmus("delete", "exportpolicy", "cli", "-n", "shop")) == "exportpolicy/cli deleted\n"
    refused(isthmus("get", "exportpolicy", "cli", "-n", "shop"), 3, "does not exist")


def test_one_bad_object_of_fifty_is_named_and_the_others_are_applied(isthmus: Run) -> None:
    def policy(number: int) -> str:
        return POLICY.replace("name: cli", f"name: bulk-{number}") % ("Bad" if number == 20 else "orders")

    done = isthmus("apply", "-f", "-", text="---\n".join(map(policy, range(50))))
    assert done.returncode == 2
    assert [line for line in done.stdout.splitlines() if not line.endswith(" created")] == []
    assert len(done.stdout.splitlines()) == 49
    named, total = done.stderr.splitlines()
    assert named.startswith("isthmus: exportpolicy/bulk-20: ")
    assert "'Bad' is not a name" in named
    assert total == "isthmus: 1 of 50 objects were refused, the others are as the file says"
    again = isthmus("apply", "-f", "-", text=policy(21))
    assert ok(again) == "exportpolicy/bulk-21 unchanged\n"


def test_what_was_shown_as_yaml_can_be_applied_and_a_dry_run_changes_nothing(
    isthmus: Run, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY.replace("name: cli", "name: folder") % "orders")
    apply = ("apply", "-f", str(tmp_path))
    show = ("get", "exportpolicies", "folder", "-n", "shop")
    assert ok(isthmus(*apply, "--dry-run")) == "exportpolicy/folder created (dry run)\n"
    refused(isthmus(*show), 3, "does not exist")
    assert ok(isthmus(*apply)) == "exportpolicy/folder created\n"
    shown = ok(isthmus(*show, "-o", "yaml"))
    assert ok(isthmus("apply", "-f", "-", text=shown)) == "exportpolicy/folder unchanged\n"
    changed = shown.replace("- orders", "- payments")
    for options, done in (
        (("--dry-run",), "configured (dry run)"),
        ((), "configured"),
    ):
        assert ok(isthmus("apply", "-f", "-", *options, text=changed)) == f"exportpolicy/folder {done}\n"
    assert ok(isthmus(*apply, "--dry-run")) == "exportpolicy/folder configured (dry run)\n"
    wrong = changed.replace("services:", "service:")
    refused(isthmus("apply", "-f", "-", "--dry-run", text=wrong), 2, "unknown field `service`")
    refused(isthmus("apply", "-f", "-", text=changed), 4, "is at revision")  # It was shown before the change.


def test_a_file_with_something_that_is_no_object_is_refused_before_anything_is_sent(isthmus: Run) -> None:
    text = POLICY.replace("name: cli", "name: never") % "orders"
    refused(
        isthmus("apply", "-f", "-", text=f"{text}---\nkind: Nonsense\n"), 2, "document 2: apiVersion is None"
    )
    refused(isthmus("get", "exportpolicy", "never", "-n", "shop"), 3, "does not exist")


def test_status_says_the_same_to_people_and_to_programs(isthmus: Run) -> None:
    status: dict[str, Any] = json.loads(ok(isthmus("status", "-o", "json")))
    assert (status["cluster"], status["id"], status["raft"]["role"]) == ("alpha", "c1", "leader")
    text = ok(isthmus("status"))
    assert status["federation"] in text
    assert "alpha/c1" in text
    names = [one["name"] for one in json.loads(ok(isthmus("cluster", "list", "-o", "json")))]
    assert "alpha" in names
    assert ok(isthmus("cluster", "status", "alpha")).splitlines()[1].split()[:2] == ["alpha", "primary"]


def test_a_token_is_printed_alone_so_that_scripts_can_take_it(isthmus: Run) -> None:
    token = parse_token(
        ok(isthmus("token", "create", "--purpose", "dns", "--cluster", "alpha", "--ttl", "1m"))
    )
    assert (token.purpose, token.cluster) == ("dns", "alpha")
    answer = json.loads(ok(isthmus("token", "create", "--cluster", "new", "-o", "json")))
    assert parse_token(answer["token"]).purpose == "cluster"


def test_proxies_and_endpoints_are_empty_lists_while_there_are_none(isthmus: Run) -> None:
    assert json.loads(ok(isthmus("proxy", "status", "-o", "json"))) == []
    assert ok(isthmus("proxy", "status")).split()[:2] == ["PROXY", "CLUSTER"]
    assert json.loads(ok(isthmus("get", "endpoints", "-n", "nowhere", "-o", "json"))) == []
    empty = isthmus("get", "grants", "-n", "nowhere", "--cluster", "alpha")
    assert (ok(empty), empty.stderr) == ("", "no grants found in namespace nowhere of cluster alpha\n")
    empty = isthmus("get", "endpoints", "-n", "nowhere")
    assert (ok(empty), empty.stderr) == ("", "no endpoints found in namespace nowhere\n")
    refused(isthmus("get", "endpoint", "none"), 3, "no endpoint is called 'none'")
    nothing = isthmus("explain", "orders.nowhere", "--from", "alpha")
    assert ok(nothing) == ""
    assert "no cluster has an endpoint of it" in nothing.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("resolve", "orders.nowhere", "--from", "alpha"),
            3,
            "nowhere/orders is not visible to cluster alpha",
        ),
        (
            ("resolve", "orders", "--from", "alpha"),
            2,
            "'orders' names no service, expected SERVICE.NAMESPACE",
        ),
        (("resolve", "orders.shop", "--from", "mars"), 3, "Cluster/mars does not exist"),
        (("get", "pods"), 3, "no kind 'pods': expected one of"),
        (("get", "clusters", "mars"), 3, "Cluster/mars does not exist"),
        (("get", "clusters", "a/../b?c d"), 3, "does not exist"),
        (("cluster", "status", "mars"), 3, "cluster mars has not joined"),
        (("delete", "cluster", "alpha"), 1, "cannot be deleted"),
        (("token", "create", "--purpose", "dns", "--cluster", "mars"), 3, "Cluster/mars does not exist"),
    ],
)
def test_a_refusal_is_one_line_with_its_exit_status(
    isthmus: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    refused(isthmus(*arguments), code, message)


def test_a_controller_that_does_not_answer_exits_5_naming_its_address(
    isthmus: Run, controller: Controller, tmp_path: Path
) -> None:
    source, copy = controller.installation.context, tmp_path / "context"
    copy.mkdir(mode=0o700)
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / file.name).chmod(0o600)
    dead = controller.installation.host.rpartition(".")[0] + ".200:7445"
    text = (copy / "context.toml").read_text()
    (copy / "context.toml").write_text(text.replace(f"{controller.installation.host}:7445", dead))
    refused(isthmus("status", context=copy), 5, f"no controller answers: {dead}: Connection refused")
    # The doctor is asked just then: that nobody answers is what it found.
    told = isthmus("doctor", context=copy)
    assert told.returncode == 1
    assert f"no controller answers: {dead}" in told.stdout
    assert "isthmus controller run" in told.stdout


def test_a_server_that_is_another_cluster_is_not_believed(
    isthmus: Run, controller: Controller, tmp_path: Path
) -> None:
    copy = tmp_path / "context"
    copy.mkdir(mode=0o700)
    for file in controller.installation.context.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / file.name).chmod(0o600)
    text = (copy / "context.toml").read_text()
    (copy / "context.toml").write_text(text.replace('cluster = "alpha"', 'cluster = "beta"'))
    refused(isthmus("status", context=copy), 1, "expected a controller of beta")


def test_the_history_begins_when_the_federation_was_founded(isthmus: Run) -> None:
    (created,) = json.loads(ok(isthmus("history", "cluster/alpha", "-o", "json")))["events"]
    assert created["atMs"] > 1_700_000_000_000
    cluster = json.loads(ok(isthmus("get", "cluster/alpha", "-o", "json")))
    assert not cluster["metadata"]["creationTimestamp"].startswith("1970")
    nothing = isthmus("history", "grant/shop/never")
    assert ok(nothing) == ""
    assert nothing.stderr.startswith("no change of grant/shop/never is remembered\n")


def test_a_wrong_service_outside_is_refused_by_document_and_field(isthmus: Run) -> None:
    text = """\
apiVersion: federation.isthmus.dev/v1alpha1
kind: ExternalService
metadata: {name: outside, namespace: shop}
spec: {addresses: [203.0.113.5, %s], ports: [{name: http, port: 80}]}
"""
    wrong = "spec.addresses[1] is '::ffff:169.254.169.254', expected 169.254.169.254"
    refused(isthmus("apply", "-f", "-", text=text % "'::ffff:169.254.169.254'"), 2, wrong)
    refused(isthmus("apply", "-f", "-", text=text % "127.0.0.1"), 1, "127.0.0.1 means another host")
    refused(isthmus("get", "externalservice", "outside", "-n", "shop"), 3, "does not exist")
