"""SPIFFE ids and the verifier's decoders under arbitrary input."""

import string

from hypothesis import given
from hypothesis import strategies as st

from certs.core import spiffe
from certs.core.spiffe import SpiffeId
from federation.kernel.errors import InvalidInputError

DOMAINS = st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=255)
SEGMENTS = st.text(string.ascii_letters + string.digits + ".-_", min_size=1, max_size=40).filter(
    lambda segment: segment not in (".", "..")
)
IDS = st.builds(
    lambda domain, segments: SpiffeId.of(domain, *segments), DOMAINS, st.lists(SEGMENTS, max_size=8)
)


@given(IDS)
def test_every_id_survives_writing_and_reading(spiffe_id: SpiffeId) -> None:
    assert spiffe.parse(str(spiffe_id)) == spiffe_id


@given(st.text() | st.text().map("spiffe://".__add__) | st.text().map("spiffe://td/".__add__))
def test_any_text_is_either_refused_or_one_canonical_id(text: str) -> None:
    try:
        spiffe_id = spiffe.parse(text)
    except InvalidInputError:
        return
    assert str(spiffe_id) == text
    assert text.isascii()


@given(DOMAINS, SEGMENTS, SEGMENTS)
def test_workload_names_come_back(domain: str, namespace: str, account: str) -> None:
    identity = spiffe.workload_identity(spiffe.workload_id(domain, namespace, account))
    assert identity == spiffe.WorkloadIdentity(namespace=namespace, service_account=account)


@given(DOMAINS, SEGMENTS, st.sampled_from(sorted(spiffe.SYSTEM_ROLES)), SEGMENTS)
def test_system_names_come_back(domain: str, cluster: str, role: str, name: str) -> None:
    identity = spiffe.system_identity(spiffe.system_id(domain, cluster, role, name))
    assert identity == spiffe.SystemIdentity(cluster=cluster, role=role, id=name)
