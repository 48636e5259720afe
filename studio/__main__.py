"""`python -m studio`."""

from studio.cli import app

app()
