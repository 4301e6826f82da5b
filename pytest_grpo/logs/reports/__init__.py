"""How what is found of a run is shown: as text, as JSON and Markdown, and the numbers in them."""
