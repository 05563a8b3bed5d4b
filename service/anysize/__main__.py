"""`python -m anysize`."""

from anysize.cli import app

app()
