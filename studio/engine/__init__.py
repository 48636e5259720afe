"""Text to codes to audio. Knows no job table and no web."""
