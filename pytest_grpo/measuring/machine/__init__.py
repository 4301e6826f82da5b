"""What the machine does meanwhile: clock rates, throttling, who uses the cores, and which rounds count."""
