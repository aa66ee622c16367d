"""Uploads and downloads: one file for each flow."""
