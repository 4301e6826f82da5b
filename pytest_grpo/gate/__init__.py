"""Gates: compare arms, judge the result by a threshold, and record the verdict with the test."""
