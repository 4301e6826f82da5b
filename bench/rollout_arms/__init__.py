"""Ways to sample completions, and what ``bench/rollout_speed.py`` lets them do in turn."""
