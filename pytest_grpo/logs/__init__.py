"""Finished runs of any stack, judged by the logs that they left: trends, stalls, shares, and one run over another."""
