"""Who talks to whom once everything has converged: what is chosen by a cluster's home must have followed it there."""

from typing import TYPE_CHECKING

from federation.agent.directory import own_controllers
from federation.api.directory import build_directory
from federation.api.messages import Directory

if TYPE_CHECKING:
    from tests.simulation.federation.agents import SimAgent
    from tests.simulation.federation.world import World

FOLLOWS = "a follower follows its own cluster's controllers, or its home's, while one of them lives"
REGISTERED = "an agent is registered with each controller of its cluster or home, and with no other"
HEARD = "the controllers of a cluster hear each other"
NOTHING = ("", "")  # Neither a rule nor what breaks it.


class Placement:
    """The judge of who is where, by the directory that the truth gives."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.checked = 0

    def wrong(self) -> tuple[str, str]:
        """Return the rule that does not hold and what breaks it; NOTHING when all hold."""
        directory = build_directory(self._world.rules.truth.tables)
        for rule, found in (
            (FOLLOWS, self._followers(directory)),
            (REGISTERED, self._agents(directory)),
            (HEARD, self._fellows(directory)),
        ):
            if found:
                return rule, found
        return NOTHING

    def _living(self, directory: Directory, cluster: str) -> frozenset[str]:
        """The controllers of a cluster, or of its home where it has none, whose processes live."""
        known = (one.name for one in own_controllers(directory, cluster))
        return frozenset(name for name in known if self._world.controllers[name].process.alive)

    def _followers(self, directory: Directory) -> str:
        for name, follower in self._world.present(self._world.followers):
            near = self._living(directory, follower.cluster)
            if follower.process.alive and near:
                self.checked += 1
                if follower.source not in near:
                    return f"{name} follows {follower.source or 'nobody'} instead of {_some(near)}"
        return ""

    def _agents(self, directory: Directory) -> str:
        for agent in self._world.agents.values():
            if agent.process.alive and agent.cluster not in self._world.operators.gone:
                near = self._living(directory, agent.cluster)
                self.checked += 1
                if (there := self._registered_at(agent)) != near:
                    return f"{agent.name} is registered with {_some(there)} instead of {_some(near)}"
        return ""

    def _registered_at(self, agent: "SimAgent") -> frozenset[str]:
        """Where both sides say so; and where only one does, with the name of that side."""
        assert agent.registrar is not None, "it lives"
        said = {name for name, stream in agent.registrar.streams.items() if stream.connected}
        held = {
            name
            for name, controller in self._world.controllers.items()
            if controller.process.alive
            for registry in controller.registries.values()
            if agent.name in registry.connected()
        }
        one_sided = {f"{name} (by one side's word)" for name in said ^ held}
        return frozenset((said & held) | one_sided)

    def _fellows(self, directory: Directory) -> str:
        for name, controller in self._world.present(self._world.controllers):
            for cluster, registry in controller.registries.items():
                others = self._living(directory, cluster) - {name}
                self.checked += 1
                if registry.fellows.known - registry.fellows.missing != others:
                    return (
                        f"{name} hears {_some(registry.fellows.known)} of {cluster}, but"
                        f" {_some(registry.fellows.missing)}, instead of {_some(others)}"
                    )
        return ""


def _some(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nobody"
