"""What is done with runs after they were recorded: found, followed, compared, exported, imported, drawn.

Nothing here changes a run that is there.
"""
