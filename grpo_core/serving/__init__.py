"""A policy as an OpenAI-compatible server: any agent may ask it, and each token has its id and log-probability."""
