"""A clip in memory becomes a file on disk."""
