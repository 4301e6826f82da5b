"""Commits and worktrees of git: what finds a revision, checks it out beside the user's tree, and removes it again."""
