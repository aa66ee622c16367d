"""The `t9k` namespace; `from t9k import em` is the experiment API."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from t9k.config import CONFIG

__all__ = ["CONFIG"]


def __getattr__(name: str) -> object:
    if name != "CONFIG":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from t9k.config import CONFIG

    return CONFIG
