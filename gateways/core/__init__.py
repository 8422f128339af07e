"""Pure: catalog view to xDS resources; one ADS stream as a state machine."""
