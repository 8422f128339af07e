"""Pure: SPIFFE ids, bundles, the verifier, issuance rules."""
