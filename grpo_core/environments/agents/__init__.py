"""Agents as environments: a program plays an episode and asks an OpenAI-compatible server, where the policy answers."""
