"""What a side of a comparison is: a folder with code and tests, and the Python that runs it."""
