"""Which teacher layers a student keeps, one module a method."""
