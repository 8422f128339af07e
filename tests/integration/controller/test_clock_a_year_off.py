"""One of three controllers has a wall clock that is a year off: it says so, the others go on, and it comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.controller.installation import BASE, export_policy
from tests.integration.liveness.world import World, three_at, world_at
from tests.support.loopback import LoopbackBlock

YEAR_DAYS = 365
POLICIES = f"{BASE}/namespaces/shop/exportpolicies"


def write(world: World, name: str) -> None:
    """Write by a majority, without beta."""
    world.operator("alpha").ok("POST", f"/clusters/alpha{POLICIES}", export_policy(name))


def findings(world: World) -> list[dict[str, Any]]:
    """What the doctor finds of beta, asked at a controller whose clock is right."""
    found = world.get("alpha", "/v1/doctor")["findings"]
    return [one for one in found if one["subject"] == "beta" and one["level"] != "ok"]


def takes_part(world: World, *policies: str) -> bool:
    """True when beta answers a read that includes all that was written, which takes the leader's word."""
    try:
        status, answer = world.operator("beta").call("GET", f"/clusters/alpha{POLICIES}")
    except OSError:  # The operator's own certificate is of that clock too, and is made anew in a moment.
        return False
    return status == 200 and {one["metadata"]["name"] for one in answer["items"]} >= set(policies)


def test_a_controller_whose_clock_is_a_year_off_says_so_and_comes_back_when_it_is_right(
    tmp_path: Path, loopback: Callable[[], LoopbackBlock]
) -> None:
    with world_at(tmp_path, three_at(loopback())) as world:

        def log(cluster: str) -> str:
            return world.running[cluster]["controller"].log_path.read_text()

        world.kill("beta")
        # Ahead: what it signs itself begins in a year. The others find it not valid yet, and so say what is wrong.
        world.start_controller("beta", days_off=YEAR_DAYS)
        world.until(lambda: "is not yet valid" in log("alpha"), "alpha says why it refuses beta")
        world.until(
            lambda: [one for one in findings(world) if "is not yet valid" in one["message"]],
            "the doctor says why beta does not answer",
        )
        write(world, "while-ahead")
        world.kill("beta")

        world.start_controller("beta")
        world.until(lambda: takes_part(world, "while-ahead"), "beta takes part again, by new certificates")
        world.until(lambda: findings(world) == [], "the doctor has nothing to say of beta")
        world.kill("beta")

        # Behind: even its own root lies in the future.
        world.start_controller("beta", days_off=-YEAR_DAYS)
        world.until(lambda: "clock_is_behind" in log("beta"), "beta says that its clock is behind")
        world.until(
            lambda: "alpha/controller/c1: leaf certificate is not valid before" in log("beta"),
            "beta says why it refuses alpha",
        )
        world.until(lambda: findings(world), "the doctor misses beta")
        write(world, "while-behind")
        world.kill("beta")

        world.start_controller("beta")
        world.until(lambda: takes_part(world, "while-ahead", "while-behind"), "beta takes part again")
