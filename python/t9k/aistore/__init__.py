"""AIStore: the server that scripts log in to. `aistore serve` starts it."""
