"""The `t9k` namespace; `from t9k import em` is the experiment API."""

from t9k.config import CONFIG

__all__ = ["CONFIG"]
