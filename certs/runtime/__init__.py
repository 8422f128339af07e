"""Keys, signing, TLS endpoints."""
