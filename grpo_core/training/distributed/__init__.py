"""Training in several processes: the collective operations that a step needs, and sharded base weights."""
