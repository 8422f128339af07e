"""Processes: configuration, wiring, task trees."""
