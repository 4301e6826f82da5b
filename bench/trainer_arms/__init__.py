"""The arms of ``bench/trainer_speed.py``: implementations of a training step, and their batches."""
