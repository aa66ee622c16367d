"""Blob stores: where the bytes of packs are."""
