"""Measures arms in pairs and decides by them: sampling, statistics, looks, machine conditions, the A/A control."""
