"""The arms of ``bench/learning_curve.py``: the same task, learned by this project and by TRL."""
