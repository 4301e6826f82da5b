"""The files that ``grpo init`` writes, as they are written. The test among them has a suffix of its own here, since it
imports pytest_grpo."""
