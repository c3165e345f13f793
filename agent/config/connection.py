"""Options of client connections: encryption and log-in."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.options import Options, Secret


class Tls(Options, frozen=True, kw_only=True):
    """TLS of a client connection. Files are PEM."""

    ca_file: Annotated[
        str | None, Meta(description="Certificate authorities; default: the system's.")
    ] = None
    cert_file: Annotated[str | None, Meta(description="Client certificate.")] = None
    key_file: Annotated[str | None, Meta(description="Client key.")] = None
    key_password: Annotated[Secret | None, Meta(description="Password of the client key.")] = None
    check_hostname: Annotated[
        bool, Meta(description="Refuse a certificate made for another host.")
    ] = True


class Sasl(Options, frozen=True, kw_only=True):
    """How the agent proves who it is to the brokers."""

    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
        Meta(description="SASL mechanism."),
    ]
    username: Annotated[str | None, Meta(description="For PLAIN and SCRAM.")] = None
    password: Annotated[
        Secret | None, Meta(description="For PLAIN and SCRAM; prefer `password_file`.")
    ] = None
    password_file: Annotated[
        str | None, Meta(description="File that holds the password; read at each connect.")
    ] = None
    token_file: Annotated[
        str | None,
        Meta(
            description="For OAUTHBEARER: file that holds a bearer token, re-read whenever a connection asks for one."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.mechanism == "OAUTHBEARER":
            if not self.token_file:
                raise ValueError("mechanism OAUTHBEARER needs token_file")
        elif not self.username or not (self.password or self.password_file):
            raise ValueError(
                f"mechanism {self.mechanism} needs username and one of password, password_file"
            )
