"""What runs in the containers of ``app.py``, without Modal: an engine that serves, workers that play, who trains."""
