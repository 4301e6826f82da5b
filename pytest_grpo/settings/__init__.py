"""The user's settings: options, ini values, thresholds, phases and the device, read and checked once."""
