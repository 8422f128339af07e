"""What callers do and see: the open-loop client, its records, and DNS questions."""
