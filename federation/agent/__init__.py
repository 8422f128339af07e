"""The process beside workloads: identity, registration, probes, Envoy, xDS relay."""
