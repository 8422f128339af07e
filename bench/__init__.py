"""Measurements of real processes: `make bench` writes docs/benchmarks.md and build/bench.json."""
