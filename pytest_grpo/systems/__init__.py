"""The GRPO stacks that the phases can test."""
