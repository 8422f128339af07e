"""The product: processes, edges and wiring. Only this package knows all the others."""
