"""While clusters are cut off, each caller is loaded with what has an instance on its own side, and nothing else."""

from pathlib import Path

import pytest

from chaos.lab.federation import Lab
from chaos.lab.processes import LabError
from chaos.lab.topology import SERVICES, routed_topology
from chaos.scenarios.sides import members, networks_of, services_by_caller


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(routed_topology("10.77"), tmp_path, print)  # Nothing is started.


@pytest.mark.parametrize(
    ("alone", "expected"),
    [
        pytest.param(
            ["alpha"],
            {"alpha": {"catalogue", "frontend"}, "beta": set(SERVICES), "delta": set(SERVICES)},
            id="alpha-keeps-its-own",
        ),
        pytest.param(["beta"], {"beta": {"frontend", "orders"}, "alpha": set(SERVICES)}, id="beta-too"),
        pytest.param(
            ["alpha", "gamma"],
            {
                "alpha": {"catalogue", "frontend"},
                "gamma": {"catalogue", "frontend"},
                "beta": set(SERVICES),
            },
            id="one-after-the-other",
        ),
    ],
)
def test_a_caller_is_given_what_its_side_has(
    lab: Lab, alone: list[str], expected: dict[str, set[str]]
) -> None:
    found = services_by_caller(lab, alone)
    assert set(found) == {"alpha", "beta", "gamma", "delta"}
    assert {caller: set(found[caller]) for caller in expected} == expected


def test_members_are_the_clusters_with_a_controller(lab: Lab) -> None:
    assert members(lab) == ["alpha", "beta", "gamma"]


def test_a_laboratory_without_networks_is_refused_by_what_breaks_them(lab: Lab) -> None:
    with pytest.raises(LabError, match="needs network namespaces"):
        networks_of(lab)
