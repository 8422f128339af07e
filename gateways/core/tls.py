"""TLS contexts: who may be on the other end of a connection.

Each upstream cluster trusts one trust domain and names the identities that may answer; an inbound listener
trusts the domains that some rule admits. Roots are never pooled (invariant S1): Envoy's SPIFFE validator
judges a certificate only by the bundle of the domain that it names. That validator reads the first URI
of a certificate and does not insist on there being only one; a single-domain validator makes this harmless
for upstreams, the guard of `authorization` does so for inbound calls. An upstream that moves from one trust domain to
another has two for that time, and the same identities in both: whoever could add a second URI could have been certified as
the first one.
"""

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    CommonTlsContext,
    DownstreamTlsContext,
    UpstreamTlsContext,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue

from gateways.core import names
from gateways.core.wire import ads, pack_any

_TRANSPORT_SOCKET = "envoy.transport_sockets.tls"
# Envoy as a client stops at 1.2 unless told otherwise.
_TLS_1_3 = TlsParameters(
    tls_minimum_protocol_version=TlsParameters.TLSv1_3, tls_maximum_protocol_version=TlsParameters.TLSv1_3
)


def upstream_tls(
    *, sni: str, trust_domain: str, identities: Iterable[str], http: bool, other_trust_domain: str = ""
) -> Any:
    """Return the transport socket by which a sidecar reaches one owner's endpoints.

    An empty list of identities would mean "anybody" to Envoy: it becomes a name that nobody is issued. An owner that
    changes its trust domain has a second one for that time, judged by its own roots; `identities` are of both.
    """
    exact = tuple(identities) or (f"spiffe://{trust_domain}/nobody",)
    matchers = [_uri(StringMatcher(exact=identity)) for identity in exact]
    roots = names.roots_secret(trust_domain, other_trust_domain)
    return _upstream(sni, roots, matchers, alpn=("h2",) if http else ())


def gateway_health_tls(*, trust_domain: str, cluster: str, other_trust_domain: str = "") -> Any:
    """Return the transport socket of health checks, which end at the gateway itself."""
    domains = [domain for domain in (trust_domain, other_trust_domain) if domain]
    return _upstream(
        names.gateways_health_sni(cluster),
        names.roots_secret(trust_domain, other_trust_domain),
        [_uri(StringMatcher(prefix=names.gateway_identity_prefix(domain, cluster))) for domain in domains],
        alpn=("h2",),
    )


def inbound_tls(*, alpn: tuple[str, ...], uri_matchers: Iterable[Any] = ()) -> Any:
    """Return the transport socket of a workload's inbound listener: a known caller or no connection."""
    return _downstream(
        DownstreamTlsContext(
            require_client_certificate=BoolValue(value=True),
            common_tls_context=_common(
                alpn, names.INBOUND_ROOTS, [_uri(matcher) for matcher in uri_matchers]
            ),
        )
    )


def health_server_tls() -> Any:
    """Return the transport socket of a gateway's health chain: anybody may ask whether it lives."""
    return _downstream(
        DownstreamTlsContext(
            common_tls_context=CommonTlsContext(
                tls_params=_TLS_1_3,
                alpn_protocols=["h2", "http/1.1"],
                tls_certificate_sds_secret_configs=[_secret(names.OWN_CERTIFICATE)],
            )
        )
    )


def _upstream(sni: str, roots: str, matchers: list[Any], *, alpn: tuple[str, ...]) -> Any:
    context = UpstreamTlsContext(sni=sni, common_tls_context=_common(alpn, roots, matchers))
    return TransportSocket(name=_TRANSPORT_SOCKET, typed_config=pack_any(context))


def _downstream(context: Any) -> Any:
    return TransportSocket(name=_TRANSPORT_SOCKET, typed_config=pack_any(context))


def _common(alpn: tuple[str, ...], roots: str, matchers: list[Any]) -> Any:
    return CommonTlsContext(
        tls_params=_TLS_1_3,
        alpn_protocols=alpn,
        tls_certificate_sds_secret_configs=[_secret(names.OWN_CERTIFICATE)],
        combined_validation_context=CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=matchers),
            validation_context_sds_secret_config=_secret(roots),
        ),
    )


def _secret(name: str) -> Any:
    return SdsSecretConfig(name=name, sds_config=ads())


def _uri(matcher: Any) -> Any:
    return SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=matcher)
