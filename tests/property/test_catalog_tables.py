"""A table against a dict, and every older version against what it was."""

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core import tables
from discovery.core.model import Change
from discovery.core.tables import EMPTY_TABLES, SHARD_ROWS_MAX, Table

# Few letters and short keys: many share prefixes and most changes meet a row.
KEYS = st.text("ab\0c", max_size=6).map(str.encode)
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=60)


def applied(rows: dict[bytes, bytes], changes: list[tuple[bytes, bytes | None]]) -> dict[bytes, bytes]:
    after = {**rows, **dict(changes)}
    return {key: value for key, value in after.items() if value is not None}


@settings(max_examples=150)
@given(batches=st.lists(CHANGES, max_size=8), probes=st.lists(st.tuples(KEYS, KEYS), max_size=10))
def test_a_table_is_a_sorted_dict_and_older_versions_stay(batches, probes):
    small_shards(8)
    try:
        versions: list[tuple[Table, dict[bytes, bytes]]] = [(Table(), {})]
        for changes in batches:
            table, rows = versions[-1]
            versions.append((table.set(changes), applied(rows, changes)))
        for table, rows in versions:
            assert list(table.items()) == sorted(rows.items())
            assert list(table) == sorted(rows)
            assert len(table) == len(rows)
            for prefix, after in [*probes, *((key, key) for key in rows)]:
                wanted = sorted(
                    (k, v) for k, v in rows.items() if k.startswith(prefix) and (not after or k > after)
                )
                assert list(table.items(prefix, after)) == wanted
                assert table.get(prefix) == rows.get(prefix)
                assert (prefix in table) == (prefix in rows)
            assert all(0 < len(keys) <= 8 for keys, _ in table._shards)
            assert table == Table.of_sorted(sorted(rows.items()))
            assert table.digest() == Table.of_sorted(sorted(rows.items())).digest()
    finally:
        small_shards(SHARD_ROWS_MAX)


def small_shards(rows: int) -> None:
    """Split and join after few rows, so that small examples reach both."""
    tables.SHARD_ROWS_MAX = rows
    tables.SHARD_ROWS_MIN = rows // 4


def test_shards_hold_at_most_a_thousand_rows_and_small_ones_join():
    rows = [(b"%06d" % number, b"v") for number in range(5_000)]
    table = Table().set(rows)
    assert len(table) == 5_000
    assert all(len(keys) <= SHARD_ROWS_MAX for keys, _ in table._shards)
    table = table.set((key, None) for key, _ in rows[:-10])
    assert list(table.items()) == rows[-10:]
    assert len(table._shards) == 1


def test_a_change_copies_only_the_shards_that_it_touches():
    table = Table.of_sorted((b"%06d" % number, b"v") for number in range(10_000))
    changed = table.set([(b"005000", b"w")])
    same = [old is new for old, new in zip(table._shards, changed._shards, strict=True)]
    assert same.count(False) == 1


@given(changes=CHANGES)
def test_tables_change_both_tables_at_a_revision(changes):
    rows = [Change("endpoints", key, value) for key, value in changes]
    rows += [Change("resources", key + b"r", value) for key, value in changes]
    after = EMPTY_TABLES.with_changes(rows, 7)
    assert (after.revision, EMPTY_TABLES.revision) == (7, 0)
    assert dict(after.endpoints.items()) == applied({}, changes)
    assert dict(after.resources.items()) == applied({}, [(key + b"r", value) for key, value in changes])
    assert len(EMPTY_TABLES.endpoints) == 0
