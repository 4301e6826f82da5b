"""What runs in the containers of ``app.py``: an engine that serves, rollout workers, the trainer."""
