"""The address that the app listens on, checked before anything slow is imported."""

import socket

from lorahub.errors import ConfigError


def check_free(host: str, port: int) -> None:
    """Raise ConfigError if the app cannot listen at `host` and `port`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gradio's server does it: a port that was in use a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"the app cannot listen on {host}, port {port} ({error.strerror or error}). "
            "Give another --port, or end the program that uses this one."
        ) from None
