"""One protocol by which every other process follows the catalog."""
