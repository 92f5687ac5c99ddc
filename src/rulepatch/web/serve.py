"""Web server of the page: local by default, without sharing links, external resources or telemetry."""

import importlib.util
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from PIL import Image

from rulepatch.errors import MissingExtraError, SettingError
from rulepatch.web.catalog import Catalog
from rulepatch.web.door import Door, Guard
from rulepatch.web.sessions import Sessions

__all__ = ["LOOPBACK", "serving"]

LOOPBACK = "127.0.0.1"

LARGEST_UPLOAD = "20mb"

MOST_PIXELS = 40_000_000
"""Of an uploaded image; a file of few bytes can hold very many."""

log = logging.getLogger("rulepatch")


@contextmanager
def serving(catalog: Catalog, *, host: str = LOOPBACK, port: int | None = None) -> Iterator[str]:
    """Serve the page; a context manager.

    Args:
        catalog: models and folders to offer.
        host: address to listen on; the default is reachable from this machine only.
        port: to listen on; 0 for any free one; the first free one from 7860 on if None.

    Yields:
        Its address, with the token that opens it.

    Raises:
        MissingExtraError: Gradio is not installed.
        SettingError: the address cannot be listened on.
    """
    with closing(catalog):
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which accesses the network
        if importlib.util.find_spec("gradio") is None:
            raise MissingExtraError("expected Gradio for the page but it is not there; pip install 'rulepatch[ui]'")
        from starlette.middleware import Middleware

        from rulepatch.web.app import CSS, HEAD, build

        free = _free(host, port)
        _warn(host)
        threading.Thread(target=catalog.warm_up, daemon=True).start()
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS
        guard = Guard(host)
        with closing(Sessions(catalog, is_open=guard.pages.__contains__)) as sessions:
            page = build(sessions)
            try:
                _, address, _ = page.queue(default_concurrency_limit=None).launch(
                    server_name=host,
                    server_port=free,
                    share=False,
                    quiet=True,
                    prevent_thread_lock=True,
                    footer_links=[],
                    max_file_size=LARGEST_UPLOAD,
                    enable_monitoring=False,
                    ssr_mode=False,
                    css=CSS,
                    head=HEAD,
                    app_kwargs={"middleware": [Middleware(Door, guard=guard)]},
                )
                yield f"{address}?token={guard.token}"
            finally:
                with suppress(Exception):
                    page.close(verbose=False)


def _free(host: str, port: int | None) -> int | None:
    """Check the port to listen on; 0 for a free one."""
    if port is None:
        return None
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise SettingError(
                f"expected an address to listen on but {host}:{port} cannot be used ({error}); name another port"
            ) from None
        return int(probe.getsockname()[1])


def _warn(host: str) -> None:
    """Warn if other machines can reach the address."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host != "localhost":
        log.warning(
            "others can reach %s: whoever knows the whole address can use the page, and what is sent is not encrypted",
            host,
        )
