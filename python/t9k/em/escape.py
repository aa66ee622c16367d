"""Foreign text for terminals and pictures."""


def printable(text: str) -> str:
    """Returns the text with every character escaped that could move the cursor or turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
