"""Teacher, student and every size in between: data, weights and folders."""
