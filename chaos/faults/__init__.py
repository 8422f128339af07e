"""Faults as context managers: made on entry, undone on exit, whatever happens between."""
