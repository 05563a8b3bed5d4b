"""`python -m anysize_training`."""

from anysize_training.cli import app

app()
