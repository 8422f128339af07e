"""Raft over opaque bytes."""
