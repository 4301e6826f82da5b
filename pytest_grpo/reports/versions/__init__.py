"""Reports of comparisons of two versions: the terminal's table, cards and charts of the page, Markdown for GitHub."""
