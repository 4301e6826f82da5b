"""A GRPO training stack: rollout engine, LoRA cache, trainer and the schedule that keeps both busy."""
