"""The runs of a home: what they left on disk, which of them a process holds, and how one is resumed."""
