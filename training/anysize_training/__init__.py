"""The offline pipeline: making students, and measuring what they are worth."""
