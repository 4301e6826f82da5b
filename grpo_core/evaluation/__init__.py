"""How good a policy is on questions that it does not train on: greedy answers, and pass@k."""
