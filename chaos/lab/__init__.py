"""The laboratory: a federation of real processes, where it lives, and how it ends."""
