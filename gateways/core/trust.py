"""Secrets over xDS. A controller sends public roots only; keys are made and kept by agents (invariant S3)."""

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsCertificate,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import (
    SPIFFECertValidatorConfig,
)

from discovery.core.view import Admission, TrustDomainRoots
from gateways.core import names
from gateways.core.wire import SECRET, XdsResource, make_resource, pack_any


def roots_secret(roots: TrustDomainRoots) -> XdsResource:
    """Return the validation context that believes one trust domain."""
    return _validation(names.roots_secret(roots.trust_domain), [roots])


def pair_secret(one: TrustDomainRoots, other: TrustDomainRoots) -> XdsResource:
    """Return the validation context that believes two trust domains, each by its own roots."""
    pair = sorted((one, other), key=lambda roots: roots.trust_domain)
    return _validation(names.roots_secret(one.trust_domain, other.trust_domain), pair)


def inbound_roots_secret(
    admissions: Sequence[Admission], known: Mapping[str, TrustDomainRoots]
) -> XdsResource | None:
    """Return the validation context of a sidecar's inbound listeners: the domains that some rule admits.

    A domain whose roots are unknown is left out, so its identities fail the handshake. None while not
    even the own domain's roots are known: Envoy then waits rather than serve without.
    """
    admitted = {admission.own_trust_domain for admission in admissions}
    if not admitted & known.keys():
        return None
    admitted |= {admission.other_own_trust_domain for admission in admissions}
    admitted |= {source.trust_domain for admission in admissions for source in admission.sources}
    return _validation(names.INBOUND_ROOTS, [known[name] for name in sorted(admitted & known.keys())])


def own_certificate_secret(*, chain_pem: str, key_pem: str) -> XdsResource:
    """Return the proxy's own certificate and key; only an agent calls this, for its own Envoys."""
    secret = Secret(
        name=names.OWN_CERTIFICATE,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_string=chain_pem),
            private_key=DataSource(inline_string=key_pem),
        ),
    )
    return make_resource(SECRET, secret.name, secret)


def _validation(name: str, domains: Sequence[TrustDomainRoots]) -> XdsResource:
    config = SPIFFECertValidatorConfig(trust_domains=[_trust_domain(roots) for roots in domains])
    validator = TypedExtensionConfig(name="envoy.tls.cert_validator.spiffe", typed_config=pack_any(config))
    secret = Secret(
        name=name, validation_context=CertificateValidationContext(custom_validator_config=validator)
    )
    return make_resource(SECRET, name, secret)


def _trust_domain(roots: TrustDomainRoots) -> Any:
    pem = "".join(root if root.endswith("\n") else root + "\n" for root in roots.roots_pem)
    return SPIFFECertValidatorConfig.TrustDomain(
        name=roots.trust_domain, trust_bundle=DataSource(inline_string=pem)
    )
