"""What exists, where, and who may see it."""
