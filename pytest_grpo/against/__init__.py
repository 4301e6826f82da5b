"""The same tests on two sides, measured in pairs: the working tree against a revision, a folder or other packages."""
