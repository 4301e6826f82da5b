"""A GRPO stack over ``transformers`` and ``peft``, as a system that the phases judge."""
