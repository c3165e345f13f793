"""Text of a file that holds a secret: read whenever it is needed, shown never."""

from __future__ import annotations

from pathlib import Path

from agent.errors import ConfigError


def secret_text(path: str, option: str, *, keep_spaces: bool = False) -> str:
    """The file's text, without spaces around it. Raises ConfigError that names the option, not the text.

    keep_spaces  a password may begin or end with them: only the line end that editors add is left out
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        text = text.rstrip("\r\n") if keep_spaces else text.strip()
    except OSError as error:
        raise ConfigError(
            f"{option} is {path!r}; it cannot be read ({error.strerror}). Check path and permissions"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option} is {path!r}; it is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{option} is {path!r}; the file is empty. Write the secret into it")
    return text
