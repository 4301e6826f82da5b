"""What the `grpo` commands do, one file each. ``grpo_core.cli`` and ``scripts/`` are the doors."""
