"""How a service gets a run's events from their file: in order, again after an outage, from a thread of its own."""
