"""What a session's verdicts look like: in the terminal, on a web page, on GitHub."""
