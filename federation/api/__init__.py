"""The edges that people and agents call: HTTPS resources, enrollment, the control gRPC service."""
