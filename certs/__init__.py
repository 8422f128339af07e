"""SPIFFE identities and trust bundles."""
