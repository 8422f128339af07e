"""Pure: the contract, journal records, frames."""
