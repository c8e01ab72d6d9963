"""What Subak decides, on the standard library and msgspec alone: no clock, network, environment, logging or task."""
