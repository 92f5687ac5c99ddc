"""Serving the page: on this machine alone unless asked, nothing shared, nothing fetched, nothing reported."""

import importlib.util
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from PIL import Image

from rulepatch.errors import MissingExtraError, SettingError
from rulepatch.web.offers import Offers

__all__ = ["LOOPBACK", "Served", "serving"]

LOOPBACK = "127.0.0.1"
PORT = 7860

LARGEST_UPLOAD = "20mb"

MOST_PIXELS = 40_000_000
"""Of an uploaded picture; a file of few bytes can hold very many."""

log = logging.getLogger("rulepatch")


@dataclass(frozen=True)
class Served:
    """A page that is being served.

    Attributes:
        address: where to open it.
        sessions: how many pages are open, as a function.
    """

    address: str
    sessions: "object"


@contextmanager
def serving(offers: Offers, *, host: str = LOOPBACK, port: int | None = None) -> Iterator[Served]:
    """Serve the page as long as a block lasts.

    Args:
        offers: what people can work with.
        host: address to listen on; only this machine can reach the default.
        port: to listen on; the first free one from 7860 on if None.

    Yields:
        Where it is.

    Raises:
        MissingExtraError: Gradio is not installed.
        SettingError: the address cannot be listened on.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported: it asks the net then
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("expected Gradio for the page but it is not installed; pip install 'rulepatch[ui]'")
    from rulepatch.web.app import CSS, HEAD, build
    from rulepatch.web.sessions import Sessions

    _check(host, port)
    threading.Thread(target=offers.warm_up, daemon=True).start()
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    sessions = Sessions(offers)
    page = build(sessions)
    try:
        _, address, _ = page.queue(default_concurrency_limit=None).launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            max_file_size=LARGEST_UPLOAD,
            enable_monitoring=False,
            ssr_mode=False,
            css=CSS,
            head=HEAD,
        )
        yield Served(address, sessions)
    finally:
        with suppress(Exception):
            page.close(verbose=False)
        sessions.close()
        offers.close()


def _check(host: str, port: int | None) -> None:
    """Refuse an address that cannot be listened on, and warn of one that others can reach."""
    if port is not None:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError) as error:
                raise SettingError(
                    f"expected an address to listen on but {host}:{port} cannot be used ({error}); name another port"
                ) from None
    with suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            log.warning("others can reach %s: whoever opens the page can use it, there is no password", host)
