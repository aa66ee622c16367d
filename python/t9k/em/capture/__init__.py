"""What a Run records on its own: where it ran, what it printed, what it used, how it ended.

Nothing here may break or slow the script: collectors run in daemon threads
or in a helper process, and what cannot be found out is left out.
"""
