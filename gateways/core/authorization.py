"""Who may call: the guard at the head of every inbound chain, and the rules made of grants.

Envoy's ordinary principals match any URI *or DNS* name of a certificate. Everything here matches on the
input `uri_san`, which is the certificate's URI names joined by commas: the guard accepts exactly one
well-formed SPIFFE ID (a comma cannot match), after which a rule sees that one identity or nothing.
"""

from collections.abc import Iterable
from typing import Any

from envoy.config.rbac.v3.rbac_pb2 import RBAC as RULES
from envoy.config.rbac.v3.rbac_pb2 import Action
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HTTP_RBAC
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NETWORK_RBAC
from envoy.extensions.matching.common_inputs.ssl.v3.ssl_inputs_pb2 import UriSanInput
from envoy.type.matcher.v3.string_pb2 import StringMatcher as EnvoyStringMatcher
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.regex_pb2 import RegexMatcher
from xds.type.matcher.v3.string_pb2 import StringMatcher

from discovery.core.view import Admission, AdmittedSource
from gateways.core.wire import pack_any

# SPIFFE-ID: one trust domain, then at least one segment. RE2 matches the whole input.
ONE_SPIFFE_ID = r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+"


def one_identity_guard() -> Any:
    """Return the HTTP filter's configuration that refuses all but exactly one SPIFFE ID (invariant S1)."""
    return HTTP_RBAC(matcher=_guard())


def one_identity_guard_tcp() -> Any:
    """Return the same for TCP."""
    return NETWORK_RBAC(matcher=_guard(), stat_prefix="identity.")


def nobody() -> Any:
    """Return the HTTP filter's configuration that refuses everybody whom no route admits (invariant S2)."""
    return HTTP_RBAC(rules=RULES(action=RULES.ALLOW))


def admit_per_route(admission: Admission) -> Any:
    """Return the route's part of the HTTP filter: whom `admission` names, and nobody else."""
    return RBACPerRoute(rbac=HTTP_RBAC(matcher=_allow(_identities(admission))))


def admit_tcp(admission: Admission) -> Any:
    """Return the TCP filter's configuration for `admission`."""
    return NETWORK_RBAC(matcher=_allow(_identities(admission)), stat_prefix="admission.")


def uri_matchers(admission: Admission) -> list[Any]:
    """Return `admission` as matchers for a TLS context."""
    return [
        EnvoyStringMatcher(exact=text) if exact else EnvoyStringMatcher(prefix=text)
        for exact, text in _identities(admission)
    ]


def admits(admission: Admission, identity: str) -> bool:
    """True when `admission`, as written by the functions above, lets this one SPIFFE ID in."""
    return any(
        identity == text if exact else identity.startswith(text) for exact, text in _identities(admission)
    )


def _identities(admission: Admission) -> list[tuple[bool, str]]:
    """The admitted identities as (is exact, exact text or prefix), sorted."""
    own = (admission.own_trust_domain, admission.other_own_trust_domain)
    found = {(False, f"spiffe://{domain}/") for domain in own if domain}
    for source in admission.sources:
        found.update(_source_identities(source))
    return sorted(found)


def _source_identities(source: AdmittedSource) -> Iterable[tuple[bool, str]]:
    """All lists that a source gives must match: a principal outside its namespaces admits nobody."""
    domain = f"spiffe://{source.trust_domain}/"
    prefixes = tuple(f"{domain}ns/{namespace}/" for namespace in source.namespaces) or (domain,)
    if not source.principals:
        return [(False, prefix) for prefix in prefixes]
    return [(True, principal) for principal in source.principals if principal.startswith(prefixes)]


def _guard() -> Any:
    return _first_match([StringMatcher(safe_regex=RegexMatcher(google_re2={}, regex=ONE_SPIFFE_ID))])


def _allow(identities: Iterable[tuple[bool, str]]) -> Any:
    return _first_match(
        [StringMatcher(exact=text) if exact else StringMatcher(prefix=text) for exact, text in identities]
    )


def _first_match(values: Iterable[Any]) -> Any:
    """Allow what matches one of `values`, deny everything else."""
    uri_san = _extension("envoy.matching.inputs.uri_san", UriSanInput())
    predicates = [
        Matcher.MatcherList.Predicate(
            single_predicate=Matcher.MatcherList.Predicate.SinglePredicate(input=uri_san, value_match=value)
        )
        for value in values
    ]
    allow = _action("allow", RULES.ALLOW)
    return Matcher(
        matcher_list=Matcher.MatcherList(
            matchers=[
                Matcher.MatcherList.FieldMatcher(predicate=predicate, on_match=allow)
                for predicate in predicates
            ]
        ),
        on_no_match=_action("deny", RULES.DENY),
    )


def _action(name: str, action: int) -> Any:
    return Matcher.OnMatch(action=_extension("action", Action(name=name, action=action)))


def _extension(name: str, config: Message) -> Any:
    return TypedExtensionConfig(name=name, typed_config=pack_any(config))
