"""The fault laboratory: real federations on one machine, their faults, and what callers noticed."""
