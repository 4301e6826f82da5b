"""Questions of one's own, and functions that reward the answers."""
