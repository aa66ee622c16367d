"""What `em login` and `em logout` change in the configuration file; see `t9k.config` for how it is read.

The file is replaced at once, with mode 0600, and keeps what is not ours:
comments, unknown keys, other contexts, a symbolic link that leads to it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

from t9k.config import MAX_FILE_BYTES, settings_of
from t9k.em.errors import ConflictError, InvalidInputError, StoreError

DEFAULT_CONTEXT = "default-context"
MAX_KEY_CHARS = 512

Verify = Callable[[str, str], object]
"""Asks a server, given its URL, whether an API key is right; raises if it is not."""


def log_in(path: str, host: str | None, api_key: str, context: str | None = None, verify: Verify | None = None) -> str:
    """Writes server and API key to a context, which becomes the current one.

    Args:
        path: The configuration file; made with its directory if missing.
        host: URL of the AIStore server, by default the one that the context has.
        api_key: The key.
        context: Name of the context, by default the current one; made if missing.
        verify: Called with URL and key before anything is written; what it raises is passed on.

    Returns:
        URL of the server.

    Raises:
        InvalidInputError: Key, URL or file is not valid; the file is unchanged.
        ConflictError: Somebody else changed the file meanwhile.
        StoreError: The file cannot be read or written.
    """
    api_key = _checked_key(api_key)
    before = _read(path)
    editor, document = _parse(path, before)
    name = context or _text(document.get("current-context")) or DEFAULT_CONTEXT
    entry = _context(path, document, name, is_made=True)
    if host is not None:
        _set_host(path, entry, host)
    document["current-context"] = name
    auth = _mapping(path, entry, "auth")
    auth["api_key" if "api_key" in auth and "apikey" not in auth else "apikey"] = _quoted(api_key)
    after = _dump(editor, document)
    settings = settings_of(after)
    url = settings.get("aistore_host")
    if not url:
        raise InvalidInputError(f"no server is known in context {name!r} of {path}", hint="em login --host URL")
    if settings.get("api_key") != api_key:
        raise InvalidInputError(f"{path} would not be read back: it has aliases or is too large; edit it by hand")
    if verify is not None:
        verify(url, api_key)
    _replace(path, before, after)
    return str(url)


def log_out(path: str) -> bool:
    """Empties API key and token of the current context; False if it has none.

    Raises:
        InvalidInputError: The file is not valid.
        ConflictError: Somebody else changed the file meanwhile.
        StoreError: The file cannot be read or written.
    """
    before = _read(path)
    editor, document = _parse(path, before)
    name = _text(document.get("current-context"))
    entry = _context(path, document, name, is_made=False) if name else None
    auth = entry.get("auth") if entry is not None else None
    if not isinstance(auth, dict):
        return False
    found = [key for key in ("apikey", "api_key", "token") if auth.get(key) is not None]
    for key in found:
        auth[key] = None  # a removed key would take its comments along
    after = _dump(editor, document)
    if settings_of(after) != settings_of(before or b"") | {"api_key": None, "token": None}:
        raise InvalidInputError(f"{path} would not be read back; remove the API key by hand")
    if found:
        _replace(path, before, after)
    return bool(found)


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not key or len(key) > MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInputError(  # the key itself is never shown
            f"the API key must have 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces"
        )
    return key


def _set_host(path: str, entry: dict[str, Any], host: str) -> None:
    try:
        url = urlsplit(host)
        is_valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        is_valid = False
    if not is_valid or url.query or url.fragment or url.username is not None or not host.isprintable() or " " in host:
        raise InvalidInputError(f"{host!r} is not the URL of a server such as https://example.com/t9k/aistore/server")
    entry["server"] = f"{url.scheme}://{url.netloc}"
    _mapping(path, entry, "prefixes")["aistore"] = url.path or "/"


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInputError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _parse(path: str, data: bytes | None) -> tuple[Any, dict[str, Any]]:
    """Returns the round-trip editor and the document."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.util import load_yaml_guess_indent

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096  # folds no line
    try:
        text = (data or b"").decode()
        _, indent, offset = load_yaml_guess_indent(text) if text.strip() else (None, 2, 0)
        editor.indent(mapping=2, sequence=indent or 2, offset=offset or 0)
        document = editor.load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InvalidInputError(f"{path}{line} is not valid YAML: {getattr(error, 'problem', error)}") from None
    if document is None:
        comments, document = text, editor.map()
        if comments.strip():
            document.yaml_set_start_comment("\n".join(line.strip().lstrip("# ") for line in comments.splitlines()))
    if not isinstance(document, dict):
        raise InvalidInputError(f"{path}: a mapping of keys to values was expected")
    return editor, document


def _context(path: str, document: dict[str, Any], name: str, *, is_made: bool) -> dict[str, Any]:
    contexts = document.get("contexts")
    if contexts is None and is_made:
        contexts = document["contexts"] = []
    if not isinstance(contexts, list):
        if not is_made:
            return {}
        raise InvalidInputError(f"{path}: contexts is not a list")
    for entry in contexts:
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    made: dict[str, Any] = {"name": name}
    if is_made:
        contexts.append(made)
    return made


def _mapping(path: str, entry: dict[str, Any], key: str) -> dict[str, Any]:
    value = entry.get(key)
    if value is None:
        value = entry[key] = {}
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: {key} of context {entry.get('name')!r} is not a mapping")
    return value


def _quoted(text: str) -> Any:
    # Plain, a key such as 1e5 or yes would be read as something else than text.
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dump(editor: Any, document: dict[str, Any]) -> bytes:
    text = StringIO()
    editor.dump(document, text)
    return text.getvalue().encode()


def _replace(path: str, before: bytes | None, after: bytes) -> None:
    """Writes beside the file and renames: readers see the old or the new one, also after a power cut."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".{os.path.basename(target)}.tmp-{os.urandom(8).hex()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                _keep_owner(file.fileno(), target)
                file.write(after)
                file.flush()
                os.fsync(file.fileno())
            if _read(target) != before:
                raise ConflictError(f"{path} was changed by somebody else meanwhile", hint="try again")
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _keep_owner(fd: int, target: str) -> None:
    """Root edits the file of a user, who can read it still."""
    with contextlib.suppress(OSError):
        known = os.stat(target)
        if stat.S_ISREG(known.st_mode) and (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, known.st_uid, known.st_gid)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
