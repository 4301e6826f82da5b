"""``grpo dashboard``: a live page of the runs in GRPO_HOME, made from their own files."""
