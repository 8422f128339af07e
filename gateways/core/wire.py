"""The unit of configuration that travels to an Envoy: one named resource with the hash of its content.

A resource's version is a hash of its serialized message and of nothing else, so that equal views give
equal versions on every controller (invariant G2) and a proxy that changes its controller is sent nothing.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from envoy.config.core.v3.config_source_pb2 import V3, AggregatedConfigSource, ConfigSource
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

TYPE_PREFIX = "type.googleapis.com/"
CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTES = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

# Make before break: what is referred to is sent before what refers to it.
ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET)

SHORT_NAMES = {CLUSTER: "CDS", ENDPOINTS: "EDS", LISTENER: "LDS", ROUTES: "RDS", SECRET: "SDS"}

# 64 bits of SHA-256: versions are compared only with earlier ones of the same resource.
VERSION_HEX_DIGITS = 16

# Field numbers of `DeltaDiscoveryResponse`, as length-delimited tags.
_RESOURCES_TAG = b"\x12"


class XdsResource(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of one type. `wire` is a serialized `discovery.v3.Resource`, shared by all streams."""

    type_url: str
    name: str
    version: str
    wire: bytes

    @property
    def message_bytes(self) -> bytes:
        """The serialized message itself."""
        return bytes(discovery_pb2.Resource.FromString(self.wire).resource.value)


def serialize(message: Message) -> bytes:
    """Return the bytes of `message`; equal messages give equal bytes within one build of protobuf."""
    return message.SerializeToString(deterministic=True)


def pack_any(message: Message) -> AnyMessage:
    """Return `message` in an Any; `Any.Pack` would leave the order of maps to chance."""
    return AnyMessage(type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name, value=serialize(message))


def make_resource(type_url: str, name: str, message: Message) -> XdsResource:
    """Return `message` as the resource `name`."""
    return resource_of_bytes(type_url, name, serialize(message))


def resource_of_bytes(type_url: str, name: str, value: bytes) -> XdsResource:
    """Return a resource whose message is already serialized."""
    version = hashlib.sha256(value).hexdigest()[:VERSION_HEX_DIGITS]
    wire = serialize(
        discovery_pb2.Resource(
            name=name, version=version, resource=AnyMessage(type_url=type_url, value=value)
        )
    )
    return XdsResource(type_url=type_url, name=name, version=version, wire=wire)


def join_response(
    type_url: str, nonce: str, resources: Iterable[XdsResource], removed: Iterable[str]
) -> bytes:
    """Return a serialized `DeltaDiscoveryResponse`.

    The resources are joined, not parsed and serialized again for each of a thousand proxies: protobuf
    defines that the concatenation of messages is their merge.
    """
    frame = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=removed)
    parts = [serialize(frame)]
    for resource in resources:
        parts += (_RESOURCES_TAG, varint(len(resource.wire)), resource.wire)
    return b"".join(parts)


def varint(number: int) -> bytes:
    """Return a non-negative integer as protobuf's base-128 varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def duration(ms: int) -> Duration:
    """Return milliseconds as protobuf's Duration."""
    return Duration(seconds=ms // 1_000, nanos=ms % 1_000 * 1_000_000)


def ads() -> Any:
    """Return the source of everything that is not static: this same stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=V3)
