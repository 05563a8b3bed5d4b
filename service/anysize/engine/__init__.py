"""Running requests on variants."""
