"""What the `grpo` commands do, and what several of them share. ``grpo_core.cli`` and ``scripts/`` call them."""
