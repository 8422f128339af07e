"""What Envoys are told of a cluster that moves to another home: two trust domains, each judged by its own roots."""

import msgspec
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import (
    SPIFFECertValidatorConfig,
)

from discovery.core.model import ServiceKey
from discovery.core.view import Admission, Service
from gateways.core.authorization import admits, uri_matchers
from gateways.core.compile import ProxyConfig, ViewCompiler
from gateways.core.trust import inbound_roots_secret
from gateways.core.wire import CLUSTER, SECRET, XdsResource
from tests.unit.gateways.builders import (
    ORDERS,
    DictView,
    endpoint,
    gateway,
    owner,
    roots,
    service,
    sidecar,
    trust_domain_of,
    workload,
)
from tests.unit.gateways.decoding import decode, upstream_tls

CART = ServiceKey("shop", "cart")
PAIR = "roots/" + "|".join(sorted((trust_domain_of("beta"), trust_domain_of("gamma"))))


def moving(key: ServiceKey = ORDERS) -> Service:
    """A service of beta, which changes from beta's trust domain to gamma's."""
    still = owner("beta", [endpoint("beta", key=key)], gateways=[gateway("beta")])
    both = (
        still.identities[0],
        still.identities[0].replace(trust_domain_of("beta"), trust_domain_of("gamma")),
    )
    after = msgspec.structs.replace(still, other_trust_domain=trust_domain_of("gamma"), identities=both)
    return service(after, key=key)


def settled(key: ServiceKey = ORDERS) -> Service:
    return service(owner("beta", [endpoint("beta", key=key)], gateways=[gateway("beta")]), key=key)


def a_view(*found: Service) -> DictView:
    view = DictView("alpha")
    view.trust(*map(roots, ("alpha", "beta", "gamma")))
    for each in found:
        view.put(each)
    return view


def domains(secret: XdsResource | None) -> dict[str, str]:
    assert secret is not None
    context = decode(secret).validation_context
    config = SPIFFECertValidatorConfig.FromString(context.custom_validator_config.typed_config.value)
    return {each.name: each.trust_bundle.inline_string for each in config.trust_domains}


def test_callers_believe_both_trust_domains_each_by_its_own_roots():
    view = a_view(moving())
    compiler = ViewCompiler("alpha", view)
    compiler.update(view.services())
    config = ProxyConfig(compiler, sidecar(workloads=[workload()]))
    cluster = config.get(CLUSTER, "outbound|8080||orders.shop.svc.clusterset.local|beta")
    assert cluster is not None
    for socket in (
        upstream_tls(decode(cluster)),
        type(upstream_tls(decode(cluster))).FromString(
            decode(cluster).transport_socket_matches[0].transport_socket.typed_config.value
        ),
    ):
        validation = socket.common_tls_context.combined_validation_context
        assert validation.validation_context_sds_secret_config.name == PAIR
        assert len(validation.default_validation_context.match_typed_subject_alt_names) == 2
    assert domains(config.get(SECRET, PAIR)) == {
        name: f"PEM of {name}\n" for name in (trust_domain_of("beta"), trust_domain_of("gamma"))
    }


def test_the_pair_of_roots_is_there_as_long_as_some_service_needs_it():
    view = a_view(moving(), moving(CART))
    compiler = ViewCompiler("alpha", view)
    assert PAIR in compiler.update(view.services()).shared["sidecar"][SECRET]
    view.put(settled(CART))
    assert PAIR not in compiler.update([CART]).shared["sidecar"].get(SECRET, ())
    assert PAIR in compiler.shared("sidecar", SECRET)
    view.put(settled())
    assert PAIR in compiler.update([ORDERS]).shared["sidecar"][SECRET]
    assert PAIR not in compiler.shared("sidecar", SECRET)


def test_the_pair_follows_new_roots():
    view = a_view(moving())
    compiler = ViewCompiler("alpha", view)
    compiler.update(view.services())
    view.trust(roots("alpha"), roots("beta"), roots("gamma", "newer\n"))
    assert PAIR in compiler.update([]).shared["sidecar"][SECRET]
    assert domains(compiler.shared("sidecar", SECRET)[PAIR])[trust_domain_of("gamma")] == "newer\n"


def test_a_moving_cluster_admits_the_identities_of_both_homes_and_nobody_elses():
    admission = Admission(
        own_trust_domain=trust_domain_of("beta"), other_own_trust_domain=trust_domain_of("gamma")
    )
    callers = {
        name: f"spiffe://{trust_domain_of(name)}/ns/shop/sa/web" for name in ("alpha", "beta", "gamma")
    }
    assert [name for name, caller in callers.items() if admits(admission, caller)] == ["beta", "gamma"]
    assert len(uri_matchers(admission)) == 2
    known = {trust_domain_of(name): roots(name) for name in callers}
    assert sorted(domains(inbound_roots_secret([admission], known))) == sorted(
        (trust_domain_of("beta"), trust_domain_of("gamma"))
    )
