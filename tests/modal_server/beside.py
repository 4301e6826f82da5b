"""A module that example_app brings along."""

HERE = True
