"""What `isthmus demo` is asked for is checked before anything starts, and what it tells to try can be typed."""

import os
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from chaos.demo import Options, chosen
from chaos.hints import what_to_try
from chaos.lab.federation import Lab
from chaos.lab.places import Loopback, Place
from chaos.lab.processes import LabProcess
from chaos.lab.topology import OUTBOUND_PORT, demo_topology, routed_topology
from chaos.scenarios.disasters import DISASTERS
from federation.cli.main import main
from tests.support.wait import eventually

NAMES = [scenario.name for scenario in DISASTERS]


class Elsewhere:
    """A place that has to be entered."""

    def command(self, cluster: str, command: Sequence[str]) -> list[str]:
        return ["enter", f"network of {cluster}", *command]

    def inside(self, cluster: str) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param(Options(), NAMES, id="all"),
        pytest.param(Options(no_faults=True), [], id="none"),
        pytest.param(Options(scenarios=(NAMES[1],)), NAMES[1:2], id="one"),
        pytest.param(Options(scenarios=("drain",)), ["drain"], id="one-that-is-no-disaster"),
        pytest.param(
            Options(scenarios=("impostor", "partition")), ["impostor", "partition"], id="of-the-catalogue"
        ),
        pytest.param(
            Options(scenarios=(NAMES[1], NAMES[0], NAMES[1])), [NAMES[1], NAMES[0]], id="each-once-as-named"
        ),
    ],
)
def test_the_scenarios_that_were_asked_for_are_run(options: Options, names: list[str]) -> None:
    assert [scenario.name for scenario in chosen(options)] == names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--scenario", "comet"],
            f"there is no 'comet', expected one of {', '.join(NAMES)}, gateway-kill, drain",
        ),
        (
            ["--scenario", "partition", "--place", "loopback"],
            "--scenario partition makes faults between network namespaces: --place loopback has none",
        ),
        (["--scenario", NAMES[0], "--no-faults"], "--no-faults and --scenario: give one of them"),
        (["--seconds", "0"], "0 is not in the range"),
        (["--seconds", "many"], "'many' is not a valid float"),
        (["--place", "moon"], "'moon' is not one of"),
        (["--report", "no/folder/report.json"], "--report: there is no folder"),
    ],
)
def test_wrong_options_are_named_and_nothing_starts(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    work_dir = tmp_path / "lab"
    monkeypatch.setattr("sys.argv", ["isthmus", "demo", "--work-dir", str(work_dir), *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not work_dir.exists()


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        pytest.param(Loopback(), "", id="loopback"),
        pytest.param(Elsewhere(), "enter 'network of delta' ", id="in-a-network"),
    ],
)
def test_what_to_try_can_be_typed_as_it_stands(place: Place, prefix: str, tmp_path: Path) -> None:
    lab = Lab(demo_topology("127.9.9"), tmp_path / "with space", lambda _text: None, place=place)
    process = LabProcess("gamma/gateway", ["sleep", "600"], tmp_path / "log", environment=os.environ)
    lab.processes["gamma/gateway"] = process
    process.start()
    try:
        # In the midst of an exec a process shows no environment, by which it is known.
        eventually(
            lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"sleep\x00600\x00",
            timeout_s=60,
            message="it sleeps",
        )
        lines = [line.strip() for line in what_to_try(lab)]
    finally:
        process.kill()

    delta = lab.clusters["delta"]
    assert [line for line in lines if line.startswith(f"{prefix}dig @{delta.dns} -p ")]
    assert [
        line
        for line in lines
        if line.startswith(f"{prefix}curl -H 'Host: ")
        and f"{delta.agents[0].address}:{OUTBOUND_PORT}/" in line
    ]
    assert f"kill -9 {process.pid}" in lines
    (context,) = [shlex.split(line)[1] for line in lines if line.startswith("export ISTHMUS_CONTEXT=")]
    assert context == f"ISTHMUS_CONTEXT={lab.data_dir('alpha', 'controller')}/operator"
    assert [line for line in lines if line.endswith(" --from delta")]


def test_where_calls_are_captured_plain_names_are_called_as_a_user_that_is(tmp_path: Path) -> None:
    lab = Lab(routed_topology("10.9", capture=True), tmp_path, lambda _text: None, place=Elsewhere())

    lines = [line.strip() for line in what_to_try(lab)]

    user = lab.clusters["delta"].agents[0].user
    enter = f"enter 'network of delta' setpriv --reuid={user} --regid={user} --clear-groups -- "
    assert f"{enter}curl http://frontend.shop.svc.clusterset.local:8080/" in lines
    assert [line for line in lines if "dig @" in line and " -p 53 " in line]
