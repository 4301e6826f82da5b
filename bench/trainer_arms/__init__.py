"""Ways to take a training step, and what ``bench/trainer_speed.py`` lets them do in turn."""
