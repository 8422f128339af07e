"""Which clusters would be found dead if they were lost together: what their LossPolicies wait for. Changes nothing.

Asked of the same rules as after a real loss: what each observer that is left would miss and say of them
(`discovery.core.opinion`), and what follows from that (`discovery.core.liveness`). All that are left are taken to be well.
"""

from collections.abc import Collection, Mapping

from discovery.core.liveness import Electorate, is_suspended
from discovery.core.specs import ClusterSpec, ObservationSpec


def foresee_dead(
    clusters: Mapping[str, ClusterSpec],
    *,
    controlled: Collection[str],
    edged: Collection[str],
    lost: Collection[str],
    blind: Collection[str] = frozenset(),
) -> frozenset[str]:
    """Return those of `lost` that the others would find dead; nobody when these have too few eyes to tell.

    `controlled` are the clusters with a controller that answers others, `edged` those with a gateway: of others nobody
    sees the control plane, but their home, or a data path. Those whose member was removed are `blind`.
    """
    complaints: dict[str, dict[str, ObservationSpec]] = {}
    for observer, spec in clusters.items():
        if observer in lost or observer in blind or spec.role == "remote":
            continue
        heard = {
            name
            for name, other in clusters.items()
            if name in controlled or other.role == "witness" or other.home == observer
        } - {observer}
        control, data = _missed(heard, lost), _missed(set(edged) - {observer}, lost)
        complaints[observer] = {
            name: ObservationSpec(control_lost=name in control, data_lost=name in data)
            for name in control | data
        }
    electorate = Electorate(clusters, complaints, blind)
    return frozenset(name for name in lost if name in clusters and electorate.judge(name).state == "dead")


def _missed(seen: set[str], lost: Collection[str]) -> set[str]:
    """What an observer says that it misses: nothing, if that is so much that the fault must be its own."""
    missed = seen.intersection(lost)
    return set() if is_suspended(len(missed), len(seen)) else missed
