"""Sampling: the engines behind one interface (``protocol``), and the episodes that are played with them (``play``)."""
