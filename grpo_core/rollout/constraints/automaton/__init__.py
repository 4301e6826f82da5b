"""A regular expression as an automaton over bytes, built in bounded time and memory."""
