"""The tasks of the package reasoning-gym: its questions, and the scores that it gives to answers."""
