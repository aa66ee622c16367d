"""`python -m t9k.em` is the `em` command."""

from t9k.em.cli import main

if __name__ == "__main__":
    main()
