"""Engines, journal files, transport."""
