"""The panels of a run: their definition, their page, what they show now, and the terminal that draws them."""
