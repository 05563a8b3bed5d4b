"""Students that others distilled, patched with their teachers (paper, 3.4)."""
