"""The application that the laboratory runs."""
