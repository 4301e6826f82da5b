"""The first commit on which a phase fails: a search that judges each commit with the whole statistics."""
