"""A frozen reference: the mathematics of sampling and training in plain torch. Never optimise it, never change it.

It serves twice. The exact gates hold a system's step against it, and the timing gates run it as a third arm: a system
whose arms all became slower is slower against this arm. So nothing here imports anything but torch, and
tests/bench/test_reference.py holds the hash of each file.
"""
