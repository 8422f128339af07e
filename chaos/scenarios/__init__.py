"""What dies under load, and what has to hold meanwhile."""
