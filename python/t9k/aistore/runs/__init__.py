"""The record of runs: metadata, metrics, log, heartbeats, lineage."""
