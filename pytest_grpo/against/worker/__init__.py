"""The process of one side: it runs tests when asked, and measures their arms for the session that compares."""
