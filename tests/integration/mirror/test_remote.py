"""A remote cluster with a mirror of its own: cut off from its home it goes on."""

from tests.integration.mirror.cluster import Federation, connected, happens, join_remote, listed, seen


async def test_a_remote_cluster_without_its_home_registers_and_resolves_and_publishes_after(
    federation: Federation,
) -> None:
    join_remote(federation, "edge")
    mirror, _ = federation.mirror(cluster="edge")
    at_mirror = mirror.operator()
    first = await federation.agent("e1", cluster="edge")
    second = await federation.agent("e2", cluster="edge")
    async with first.registered() as registrar:
        # Its own mirror and its home's controllers: whichever goes, another one hears it.
        await connected(registrar, "alpha-c1", "edge-m1")
        await happens(
            lambda: (
                listed(federation.operator(), "edge") == {"e1"} and seen(at_mirror, "edge") == {first.address}
            )
        )

        federation.member_process.kill()
        async with second.registered() as alone:
            await connected(alone, "edge-m1")
            await happens(lambda: seen(at_mirror, "edge") == {first.address, second.address})

            await federation.member_started()
            await happens(lambda: listed(federation.operator(), "edge") == {"e1", "e2"})
            await connected(registrar, "alpha-c1", "edge-m1")
