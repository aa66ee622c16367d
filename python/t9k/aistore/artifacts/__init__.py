"""Artifacts: versions, aliases, and the way of chunks from upload to download."""
