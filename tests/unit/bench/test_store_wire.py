"""Messages have the bytes of etcd's, and our members keep what the commands say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record_machine import TRANSACTION, RecordMachine, put_command
from bench.store_wire import (
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    StatusResponse,
    TxnRequest,
    TxnResponse,
)
from consensus.core.contract import SNAPSHOT_CHUNK_BYTES_MAX

PUT = PutRequest(key=b"k", value=b"v")


# Bytes written down from the field numbers of rpc.proto and kv.proto: (number << 3 | wire type), length, content.
@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        pytest.param(PUT, "0a016b 120176", id="put"),
        pytest.param(RangeRequest(key=b"k", serializable=True), "0a016b 3801", id="range"),
        pytest.param(
            TxnRequest(success=[RequestOp(request_put=PUT)]), "1208 1206 0a016b 120176", id="transaction"
        ),
    ],
)
def test_a_request_has_the_field_numbers_of_etcd(message: PutRequest, encoded: str) -> None:
    assert message.SerializeToString() == bytes.fromhex(encoded)


def test_an_answer_is_read_by_the_field_numbers_of_etcd_and_what_is_unknown_is_passed_over() -> None:
    header = "0a04 1007 2002"  # member_id 7, raft_term 2.
    status = StatusResponse.FromString(bytes.fromhex(f"{header} 1203 332e34 1880a001 2007 2863"))
    key_value = "0a016b 1003 1804 2001 2a0176"  # key, create_revision, mod_revision, version, value.
    found = RangeResponse.FromString(bytes.fromhex(f"{header} 120c {key_value} 2001"))

    assert (status.header.member_id, status.header.raft_term, status.leader) == (7, 2, 7)
    assert (found.kvs[0].key, found.kvs[0].value, found.count) == (b"k", b"v", 1)
    assert TxnResponse.FromString(bytes.fromhex(f"{header} 1001")).succeeded


def test_a_transaction_keeps_each_of_its_records() -> None:
    machine = RecordMachine()
    puts = [RequestOp(request_put=PutRequest(key=key, value=b"new")) for key in (b"a", b"b")]

    machine.apply(1, put_command(b"a", b"old"))
    machine.apply(2, TRANSACTION + TxnRequest(success=puts).SerializeToString())

    assert machine.records == {b"a": b"new", b"b": b"new"}


@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=8)), st.integers(1, 64))
def test_a_snapshot_restores_the_same_records_however_it_is_cut(
    records: dict[bytes, bytes], cut: int
) -> None:
    machine, copy = RecordMachine(), RecordMachine()
    for key, value in records.items():
        machine.apply(1, put_command(key, value))
    copy.apply(1, put_command(b"gone", b"after it"))
    written = b"".join(machine.snapshot())

    copy.restore(written[at : at + cut] for at in range(0, len(written), cut))

    assert copy.records == records


def test_chunks_of_a_large_snapshot_are_not_too_large() -> None:
    machine = RecordMachine()
    for number in range(1_000):
        machine.apply(1, put_command(b"%d" % number, b"x" * 300))

    assert max(map(len, machine.snapshot())) <= SNAPSHOT_CHUNK_BYTES_MAX
