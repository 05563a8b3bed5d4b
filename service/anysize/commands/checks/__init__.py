"""What `anysize doctor` looks at: one module a subject, each check a line of its report."""
