"""A pytest plugin that asserts the performance phases of a GRPO training stack."""
