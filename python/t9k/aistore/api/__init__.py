"""HTTP: thin routes over the rules."""
