"""The phases: tests marked ``phase0`` to ``phase6`` that judge a GRPO training stack, and what they stand on.

One folder with two names: ``bench`` in the repository, ``pytest_grpo.bench`` in the installed package. So its files
import each other by relative names. What phases do not need (the benchmarks of speed, the planted faults, the studies)
stays out of the wheel; ``pyproject.toml`` lists what goes in.
"""
