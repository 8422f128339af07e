"""Whoever claims to be a cluster: its own controller of an older day, the same without its log, and a stranger.

Nothing of the data plane is touched, so nothing may fail: not what is called in the cluster, nor across its border.
"""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from chaos.lab.federation import Lab, Say
from chaos.lab.processes import wait_until
from chaos.load.dns_watch import Check, DnsWatch
from chaos.load.records import Result
from chaos.scenarios.sides import EndpointWatch, members, session_of
from chaos.scenarios.stage import Scenario, Stage
from federation.kernel.errors import IsthmusError

VICTIM = "gamma"
ASKED = "alpha"  # Whose operator looks, and has to do with who joins.
# Single calls and purchases, of all callers together: controllers that start need this machine's few cores too.
RATE_PER_S, CHAIN_RATE_PER_S = 100.0, 10.0
TIMEOUT_S = 60.0
# What controllers log, and the doctor and commands say.
LOST = "this directory lost what it had acknowledged, it gives up its vote"
REPLACED = "member lost its directory, its vote goes until it is promoted"
SOMEBODY_ELSE = "with a certificate that nobody vouches for"
TAKEN = f"Cluster/{VICTIM} exists"
OTHER_ROOT = f"the root is not the one of {VICTIM}.example in the catalog"

_POLICY = """
apiVersion: federation.isthmus.dev/v1alpha1
kind: ExportPolicy
metadata: {{name: {name}, namespace: shop, cluster: {cluster}}}
spec: {{services: [nothing]}}
"""


def impostor(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """Replace a cluster's controller by an older copy, by one without a log, and by somebody else, under load."""
    lab.wait_recovered()
    _apply(lab, "before-the-copy")
    callers = [cluster.name for cluster in lab.serving()]
    watched = [name for name in members(lab) if name != VICTIM]
    own = _Folder(lab)
    with (
        EndpointWatch(lab, watched) as endpoints,
        Stage(
            lab,
            "impostor",
            callers,
            say,
            rate_per_s=RATE_PER_S,
            chain_rate_per_s=CHAIN_RATE_PER_S,
            seconds=seconds,
        ) as stage,
        DnsWatch(lab, callers) as watch,
    ):
        fault_s = stage.event(f"the controller of {VICTIM} is off for a copy of its data directory")
        own.copy()
        checks = [_older(lab, stage, own), _without_log(lab, stage, own)]
        own.set_aside()
        checks += _newcomer(lab, stage)
        checks.append(_stranger(lab, stage))
        restarted_s = stage.event(f"{VICTIM}'s own controller returns")
        own.put_back()
        lab.wait_recovered()
        recovered_s = stage.event(f"{VICTIM} is whole again")
        checks += endpoints.checks()
        result = stage.finish(fault_s=fault_s, restarted_s=restarted_s, recovered_s=recovered_s)
    return result, [*checks, watch.check("dns meanwhile")]


IMPOSTOR = Scenario("impostor", "A cluster's name is claimed by its past and by a stranger", impostor)


class _Folder:
    """The data directory of the victim's controller, which runs but while it is changed."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._process = lab.processes[f"{VICTIM}/controller"]
        self.path = lab.data_dir(VICTIM, "controller")
        self._older = self.path.with_suffix(".older")
        self._aside = self.path.with_suffix(".aside")

    def copy(self) -> None:
        """Keep a copy of now."""
        self._process.kill()
        shutil.rmtree(self._older, ignore_errors=True)
        shutil.copytree(self.path, self._older)
        self.start()

    def become_older(self) -> None:
        """Start from the copy."""
        self._process.kill()
        shutil.rmtree(self.path)
        shutil.copytree(self._older, self.path)
        self.start()

    def lose_log(self) -> None:
        """Start with the keys alone."""
        self._process.kill()
        shutil.rmtree(self.path / "raft")
        self.start()

    def set_aside(self) -> None:
        """Leave nothing."""
        self._process.kill()
        self.path.rename(self._aside)

    def put_back(self) -> None:
        """Start from what was set aside."""
        self._process.kill()
        shutil.rmtree(self.path, ignore_errors=True)
        self._aside.rename(self.path)
        self.start()

    def start(self) -> None:
        """Start the controller; nobody waits for it here."""
        self._process.start()


def _older(lab: Lab, stage: Stage, own: _Folder) -> Check:
    """An older copy is told so by the others, has no vote until it has caught up, and brings nothing back."""
    lab.wait_controller(lab.clusters[VICTIM])
    _delete(lab, "before-the-copy")
    _apply(lab, "after-the-copy")
    _wait_for_policies(lab, VICTIM, ["after-the-copy"])
    process = lab.processes[f"{VICTIM}/controller"]
    logged_bytes = process.log_bytes()
    stage.event(f"{VICTIM}'s controller starts from its older copy")
    own.become_older()
    wait_until(
        lambda: process.logged(LOST, since_bytes=logged_bytes),
        f"the controller of {VICTIM} is told that it lost what it had acknowledged",
        TIMEOUT_S,
    )
    _wait_for_vote(lab)
    _wait_for_policies(lab, VICTIM, ["after-the-copy"])
    stage.event(f"{VICTIM} has caught up, and its vote back")
    found = {cluster: _policies(lab, cluster) for cluster in members(lab)}
    return Check(
        name="an older copy gives up its vote and brings nothing back",
        passed=all(names == ["after-the-copy"] for names in found.values()),
        detail=f"policies made and deleted since, by controller: {found}",
    )


def _without_log(lab: Lab, stage: Stage, own: _Folder) -> Check:
    """With its keys and no log it is another directory: its vote goes until it has caught up."""
    others = [lab.processes[f"{name}/controller"] for name in members(lab) if name != VICTIM]
    logged = {process.name: process.log_bytes() for process in others}

    def noticed() -> list[str]:
        return [one.name for one in others if one.logged(REPLACED, since_bytes=logged[one.name])]

    stage.event(f"{VICTIM}'s controller starts without its log")
    own.lose_log()
    wait_until(noticed, f"the leader takes the vote of {VICTIM}'s empty directory", TIMEOUT_S)
    _wait_for_vote(lab)
    lab.wait_controller(lab.clusters[VICTIM])
    stage.event(f"{VICTIM} has its log and its vote again")
    return Check(
        name="an emptied directory does not vote before it has caught up",
        passed=True,
        detail=f"noticed by {', '.join(noticed())}",
    )


def _newcomer(lab: Lab, stage: Stage) -> list[Check]:
    """With a token, perhaps a stolen one, and a root of its own nobody becomes that cluster."""
    cluster = lab.clusters[VICTIM]
    config = str(lab.directory / VICTIM / "controller.toml")
    checks = []
    stage.event(f"a stranger joins as {VICTIM}, with a token and a root of its own")
    token = lab.create_token(lab.clusters[ASKED], VICTIM, "cluster")
    for again, reason in (("", TAKEN), ("--again", OTHER_ROOT)):  # What is refused does not use it up.
        flags = [again] if again else []
        status, _, problem = lab.ask_isthmus(
            "cluster", "join", *flags, "--config", config, "--token", token, at=cluster
        )
        checks.append(
            Check(
                name=f"cluster join {again}".strip() + " of a stranger is refused",
                passed=status != 0 and reason in problem,
                detail=f"exit status {status}: {problem.strip().splitlines()[-1][:200]}",
            )
        )
    trail = lab.data_dir(ASKED, "controller") / "audit" / "audit.jsonl"
    recorded = partial(_recorded, trail, (f"put Cluster/{VICTIM}", f"/v1/join of {VICTIM}"))
    wait_until(recorded, f"the audit trail of {ASKED} names both", TIMEOUT_S)
    checks.append(
        Check(name="both are in the audit trail", passed=recorded(), detail=f"of {ASKED}'s controller")
    )
    return checks


def _stranger(lab: Lab, stage: Stage) -> Check:
    """Somebody founds a federation under that name, at that address: nobody listens to it, and the doctor says why."""
    cluster = lab.clusters[VICTIM]
    folder = lab.data_dir(VICTIM, "controller")
    shutil.rmtree(folder)
    config = str(lab.directory / VICTIM / "controller.toml")
    lab.isthmus("init", "--config", config, "--name", "theirs", at=cluster)
    lab.processes[f"{VICTIM}/controller"].start()
    lab.wait_controller(cluster)
    stage.event(f"a stranger's controller answers as {VICTIM}, at its address")
    said: list[str] = []

    def told() -> bool:
        said[:] = _doctor(lab, VICTIM)
        return any(SOMEBODY_ELSE in text for text in said)

    wait_until(told, f"the doctor of {ASKED} says who answers for {VICTIM}", TIMEOUT_S)
    agents = [agent.name for agent in cluster.agents]
    with lab.place.inside(VICTIM):
        heard = session_of(lab, VICTIM).get("/v1/endpoints")
    return Check(
        name="a stranger at the address is refused by all and named by the doctor",
        passed=not heard,
        detail=f"endpoints that it got of {', '.join(agents)}: {len(heard)}; the doctor says: "
        + next(text for text in said if SOMEBODY_ELSE in text)[:200],
    )


def _apply(lab: Lab, name: str) -> None:
    manifest = lab.directory / f"{name}.yaml"
    manifest.write_text(_POLICY.format(name=name, cluster=ASKED))
    lab.isthmus("apply", "-f", str(manifest), at=lab.clusters[ASKED])


def _delete(lab: Lab, name: str) -> None:
    arguments = ("exportpolicy", name, "--namespace", "shop", "--cluster", ASKED)
    lab.isthmus("delete", *arguments, at=lab.clusters[ASKED])


def _policies(lab: Lab, cluster: str) -> list[str]:
    """Which of the scenario's policies a controller has."""
    path = f"/clusters/{ASKED}/apis/federation.isthmus.dev/v1alpha1/namespaces/shop/exportpolicies"
    with lab.place.inside(cluster):
        rows = session_of(lab, cluster).get(path)["items"]
    return sorted(row["metadata"]["name"] for row in rows if row["metadata"]["name"].endswith("-the-copy"))


def _wait_for_policies(lab: Lab, cluster: str, names: list[str]) -> None:
    def there() -> bool:
        try:
            return _policies(lab, cluster) == names
        except (IsthmusError, OSError):
            return False  # It starts.

    wait_until(there, f"the controller of {cluster} has {names}", TIMEOUT_S)


def _wait_for_vote(lab: Lab) -> None:
    """Wait until the victim votes and answers."""

    def votes() -> bool:
        with lab.place.inside(ASKED):
            rows = session_of(lab, ASKED).get("/v1/doctor")["members"]
        return any(
            row["id"] == VICTIM and row["standing"] == "voter" and row["revision"] is not None for row in rows
        )

    wait_until(votes, f"{VICTIM} has its vote again", TIMEOUT_S)


def _doctor(lab: Lab, subject: str) -> list[str]:
    """What the doctor says of a cluster."""
    with lab.place.inside(ASKED):
        findings = session_of(lab, ASKED).get("/v1/doctor")["findings"]
    return [one["message"] for one in findings if one["subject"] == subject]


def _recorded(trail: Path, objects: Iterable[str]) -> bool:
    refused = [line for line in trail.read_text().splitlines() if '"result":"refused"' in line]
    return all(any(f'"{name}"' in line for line in refused) for name in objects)
