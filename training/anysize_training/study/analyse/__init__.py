"""Looking inside a family: how alike its models' layers are, and what they cost (paper, Appendices I to L)."""
