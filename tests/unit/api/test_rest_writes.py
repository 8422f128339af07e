"""Writes over HTTP to a real catalog: what is repeated, and what only looks as if it were."""

import msgspec
import pytest

from federation.api.manifest import API_VERSION
from tests.unit.api.test_rest_watch import POLICIES, serving
from tests.unit.discovery.builders import founded, key, put


def policy(name: str, *services: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": "shop"}
    return {
        "apiVersion": API_VERSION,
        "kind": "ExportPolicy",
        "metadata": metadata,
        "spec": {"services": list(services)},
    }


async def test_another_write_under_a_used_request_id_is_not_taken_for_the_first_one() -> None:
    log = founded()
    async with serving(log) as (_, _, session):
        for body in (policy("a", "x"), policy("a", "x"), policy("a", "y"), policy("b", "x")):
            async with session.put(
                f"{POLICIES}/{body['metadata']['name']}?requestId=deploy", json=body
            ) as answer:  # type: ignore[index]
                told = await answer.json()
                assert (answer.status, told["spec"]) == (200, body["spec"]), told
        async with session.get(f"{POLICIES}/a") as answer:
            assert (await answer.json())["metadata"]["generation"] == 2  # The repeated one took effect once.


@pytest.mark.parametrize(("chars", "status"), [(95, 200), (96, 400)])
async def test_a_request_id_that_is_too_long_is_refused_by_the_name_of_the_parameter(
    chars: int, status: int
) -> None:
    path = f"{POLICIES}/a?requestId={'x' * chars}"
    async with (
        serving(founded()) as (_, _, session),
        session.put(path, json=policy("a", "x")) as answer,
    ):
        told = await answer.json()
        assert answer.status == status, told
        if status != 200:
            assert told["message"] == "requestId has 96 characters, at most 95 are allowed"


async def test_a_watch_says_that_something_was_added_once() -> None:
    log = founded()
    path = f"{POLICIES}?watch=true&resourceVersion={log.catalog.revision}"
    async with serving(log) as (_, watches, session), session.get(path) as answer:
        at = key("ExportPolicy", "a", scope="alpha", namespace="shop")
        log.accept("alpha", put(at, {"services": ["x"]}))
        log.accept("alpha", put(at, status=b'{"conditions": []}'))
        log.accept("alpha", put(at, labels=(("team", "one"),)))
        watches.notify()
        told = [msgspec.json.decode(await answer.content.readline())["type"] for _ in range(3)]
        assert told == ["ADDED", "MODIFIED", "MODIFIED"]
