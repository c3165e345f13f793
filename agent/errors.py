"""The error tree.

InferometerError
  ConfigError        an option, file or argument is wrong: exit status 2, one line
  SourceError        a source cannot be read or joined: exit status 1
    FencedError      the group has moved on: this epoch's work must be forgotten
      UnsentError    the epoch had ended before anything was sent
  StateError         the volume cannot be used: locked, foreign, too new, full, read-only
  DecodeError        bytes that are not what they claim to be (corrupt sketch, chunk or batch)
  ExportError        a receiver did not take an export
    TransientExportError   may succeed when sent again unchanged
    PermanentExportError   the same bytes will always be refused

A message names the option or place, the value, the bound and the next step.
"""


class InferometerError(Exception):
    """Root of every error this program raises on purpose."""

    exit_status = 1


class ConfigError(InferometerError):
    """A mistake in configuration or arguments. The message is one line, fit to show to a user."""

    exit_status = 2


class SourceError(InferometerError):
    """A source of events cannot be reached, joined or read."""


class FencedError(SourceError):
    """The consumer group refused this generation or member; nothing of this epoch may be committed."""


class UnsentError(FencedError):
    """The epoch had ended: the commit was never sent, so the group cannot have accepted it."""


class StateError(InferometerError):
    """What a crash may not lose cannot be read or written. The message names the path and the next step."""


class DecodeError(InferometerError):
    """Bytes are corrupt, truncated or of an unknown version."""


class ExportError(InferometerError):
    """A receiver did not accept an export."""


class TransientExportError(ExportError):
    """Worth sending again unchanged, not sooner than `retry_after_s` (seconds) when it is given."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PermanentExportError(ExportError):
    """The receiver will always refuse these bytes."""
