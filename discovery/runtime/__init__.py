"""The DNS process's sockets."""
