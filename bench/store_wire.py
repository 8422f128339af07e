"""The part of etcd's API version 3 that the benchmarks speak, to etcd and to our own members alike.

Names of services and methods, and field numbers, are those of etcd's rpc.proto and kv.proto (the packages etcdserverpb
and mvccpb). The messages are described here, under a package name of our own, so that they never meet another
library's copy of the same files in one process.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

KV_SERVICE = "etcdserverpb.KV"
MAINTENANCE_SERVICE = "etcdserverpb.Maintenance"
# Of etcd's default limits: operations in one transaction.
TRANSACTION_OPERATIONS_MAX = 128

_PACKAGE = "isthmus.bench.store"
# Message: its fields as (name, number, type); "*" before the type: repeated. Fields that nobody here reads are
# left out, as the format allows.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "ResponseHeader": (
        ("cluster_id", 1, "uint64"),
        ("member_id", 2, "uint64"),
        ("revision", 3, "int64"),
        ("raft_term", 4, "uint64"),
    ),
    "KeyValue": (("key", 1, "bytes"), ("mod_revision", 3, "int64"), ("value", 5, "bytes")),
    "RangeRequest": (("key", 1, "bytes"), ("serializable", 7, "bool")),
    "RangeResponse": (("header", 1, "ResponseHeader"), ("kvs", 2, "*KeyValue"), ("count", 4, "int64")),
    "PutRequest": (("key", 1, "bytes"), ("value", 2, "bytes")),
    "PutResponse": (("header", 1, "ResponseHeader"),),
    # In rpc.proto the fields of RequestOp are one of several; on the wire that is the same.
    "RequestOp": (("request_put", 2, "PutRequest"),),
    "TxnRequest": (("success", 2, "*RequestOp"),),
    "TxnResponse": (("header", 1, "ResponseHeader"), ("succeeded", 2, "bool")),
    "StatusRequest": (),
    "StatusResponse": (("header", 1, "ResponseHeader"), ("version", 2, "string"), ("leader", 4, "uint64")),
}
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
    "uint64": _FIELD.TYPE_UINT64,
}


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="isthmus/bench/store.proto", package=_PACKAGE, syntax="proto3"
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind in fields:
            type_name = kind.removeprefix("*")
            field = message.field.add(name=name, number=number)
            field.label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            if type_name in _SCALARS:
                field.type = _SCALARS[type_name]
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{type_name}"
    return file


def _message(name: str) -> Any:  # A class made at run time: no checker knows its fields.
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_described())

PutRequest = _message("PutRequest")
PutResponse = _message("PutResponse")
RangeRequest = _message("RangeRequest")
RangeResponse = _message("RangeResponse")
RequestOp = _message("RequestOp")
StatusRequest = _message("StatusRequest")
StatusResponse = _message("StatusResponse")
TxnRequest = _message("TxnRequest")
TxnResponse = _message("TxnResponse")
KeyValue = _message("KeyValue")
ResponseHeader = _message("ResponseHeader")
