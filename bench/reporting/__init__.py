"""What every benchmark shares: published figures and their tables, SVG drawings, command-line options."""
