"""`python -m t9k.aistore` is `aistore`."""

from t9k.aistore.cli import main

main()
