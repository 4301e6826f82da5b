"""What the user asked for: options, ini values, thresholds, phases, the device; read once and checked here."""
