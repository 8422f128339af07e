"""Pure: model, catalog state machine, views, DNS answers."""
