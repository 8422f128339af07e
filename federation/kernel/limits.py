"""Every bound that more than one package must agree on, with its reason."""

# RFC 1035 section 2.3.4: a label has at most 63 octets, a name 255.
LABEL_BYTES_MAX = 63
NAME_BYTES_MAX = 253

# One command, one row, one frame. Commands stay below pysyncobj's 64 KiB chunking (defect D8).
COMMAND_BYTES_MAX = 48 * 1024
RESOURCE_BYTES_MAX = 32 * 1024
FRAME_BYTES_MAX = 8 * 1024 * 1024

# A service, cluster or federation larger than this is refused, not slowed down.
ENDPOINTS_PER_CLUSTER_MAX = 100_000
CLUSTERS_MAX = 1_000

# The catalog remembers this many changes for watches and mirrors to resume from.
EVENTS_KEPT_MAX = 20_000
# ... and of large rows fewer: so much of keys, rows, and rows that were replaced.
EVENTS_BYTES_MAX = 128 * 1024 * 1024
# Request ids remembered, so that a retried command takes effect once.
REQUESTS_KEPT_MAX = 20_000
