"""The users' trees: names, paths, who may do what, and all changes of nodes."""
