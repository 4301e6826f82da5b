"""Simulated suites with a known truth, and what ``bench/verdict_quality.py`` reads from their verdicts."""
