"""Envoy: translation of catalog views and their delivery."""
