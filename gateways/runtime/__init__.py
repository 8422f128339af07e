"""xDS over gRPC, Envoy processes."""
