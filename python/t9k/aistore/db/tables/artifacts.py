"""Tables of artifacts."""
