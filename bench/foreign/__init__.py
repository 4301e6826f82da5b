"""Gates of a system other than grpo_core: those that need grpo_core's own parts, computed from what any system has."""
