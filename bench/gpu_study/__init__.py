"""What a GPU does with this project: parts that each run in a process of their own, and give rows of figures."""
