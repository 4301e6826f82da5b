"""The GRPO stacks that the phases can be pointed at."""
