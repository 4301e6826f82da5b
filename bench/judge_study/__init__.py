"""What ``bench/judge_quality.py`` simulates."""
