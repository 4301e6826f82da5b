"""What a step needs at least, in operations and bytes, and how many of them the device does in a second."""
