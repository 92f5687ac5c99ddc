"""Sessions of the page: each has its own workbench, model and temporary folder until the page is closed."""

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rulepatch.concepts.painting import Painting
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import Picture
from rulepatch.errors import SettingError, StoppedError
from rulepatch.memory import give_back_freed_memory
from rulepatch.progress import Watcher, watched
from rulepatch.web.catalog import Catalog, Place
from rulepatch.web.views import Thumbnails
from rulepatch.web.workbench import Workbench

__all__ = ["Session", "Sessions"]

MOST_SESSIONS = 20
"""Most sessions at a time; each holds a model."""

IDLE_SECONDS = 4 * 3600
"""Seconds of inactivity after which a session may be closed in favour of another."""

UNWATCHED_SECONDS = 60
"""The same for one that no open page belongs to, as of calls that are made without a page."""

STOP_SECONDS = 3.0
"""An operation that begins within so many seconds of Stop was waiting when it was pressed, and is stopped too."""


@dataclass(eq=False)
class Session:
    """State of one page.

    Attributes:
        bench: the workbench.
        place: the workbench's data.
        painting: the exemplar in progress; None if no image is selected.
        learnt: the painting of the last rule that was kept, which is not used again.
        choice: the images on offer.
        points: clicked points of the image.
        full_size: (width, height) of the image before downscaling; None if it was not downscaled.
        thumbnails: thumbnails of the images shown.
        folder: folder for downloads.
    """

    bench: Workbench
    place: Place
    painting: Painting | None = None
    learnt: Painting | None = None
    choice: list[Picture] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    full_size: tuple[int, int] | None = None
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rulepatch-")))
    last_used: float = field(default_factory=time.monotonic)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stopped: float = -math.inf
    _closed: bool = False
    _made: list[tuple[Exemplar, Picture]] = field(default_factory=list)

    @contextmanager
    def at_work(self, watcher: Watcher | None = None) -> Iterator[Workbench]:
        """Acquire exclusive access to the workbench.

        Args:
            watcher: progress callback.

        Yields:
            The workbench.

        Raises:
            StoppedError: (from within) somebody pressed Stop, or closed the page.
        """

        def told(what: str, done: int, total: int) -> None:
            if self._stopped > began - STOP_SECONDS or self._closed:
                raise StoppedError("expected to finish but was stopped; nothing was changed")
            if watcher is not None:
                watcher(what, done, total)

        with self._lock:
            self.last_used = began = time.monotonic()
            try:
                with watched(told):
                    yield self.bench
            except StoppedError:
                self._stopped = -math.inf
                raise
            finally:
                if self._stopped > began:  # pressed too late for this one, and not meant for the next
                    self._stopped = -math.inf

    def stop(self) -> None:
        """Cancel the current operation at its next step."""
        self._stopped = time.monotonic()

    def commit(self) -> None:
        """Add the painting as an exemplar, replacing an earlier state of the same image.

        Raises:
            ExemplarError: something is missing.
        """
        if self.painting is None or self.painting is self.learnt:
            return
        exemplars = self.bench.state.exemplars
        if not self.painting.is_complete and exemplars:
            return  # there are exemplars, and this image was only viewed
        exemplar = self.painting.exemplar
        for index, earlier in enumerate(exemplars):
            if any(earlier is made and picture is self.painting.picture for made, picture in self._made):
                if earlier.digest() == exemplar.digest():
                    return
                self.bench.remove(index)
        self.bench.add(exemplar)
        self._made.append((exemplar, self.painting.picture))

    def close(self) -> None:
        """Release all resources once the current operation ends."""
        self._closed = True
        with self._lock:
            self.bench.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        give_back_freed_memory()


class Sessions:
    """All active sessions.

    Args:
        catalog: models and folders to offer.
        is_open: whether a page is open, by its id.
    """

    def __init__(self, catalog: Catalog, *, is_open: Callable[[str], bool] = lambda who: True) -> None:
        self.catalog = catalog
        self._is_open = is_open
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, who: str, model: str) -> Session:
        """Start or restart the session of a page with a model.

        Args:
            who: id of the page.
            model: name of the model.

        Raises:
            SettingError: too many pages are open, or the model is not offered.
        """
        self._make_room(who)
        session = Session(*self.catalog.set_up(model))
        with self._lock:
            before, self._open[who] = self._open.get(who), session
        if before is not None:
            before.close()
        return session

    def of(self, who: str) -> Session:
        """The session of a page.

        Raises:
            SettingError: the page was open for so long that its session is gone.
        """
        with suppress(KeyError):
            return self._open[who]
        raise SettingError("expected a page that is open but this one's session has ended; reload the page")

    def end(self, who: str) -> None:
        """Close the session of a page."""
        with self._lock:
            session = self._open.pop(who, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Close all sessions."""
        for who in list(self._open):
            self.end(who)

    def _make_room(self, who: str) -> None:
        if len(self._open) < MOST_SESSIONS or who in self._open:
            return
        now = time.monotonic()
        beyond = {
            who: now - session.last_used - (IDLE_SECONDS if self._is_open(who) else UNWATCHED_SECONDS)
            for who, session in self._open.items()
        }
        oldest = max(beyond, key=beyond.__getitem__)
        if beyond[oldest] < 0:
            raise SettingError(
                f"expected at most {MOST_SESSIONS} open pages but there are as many already; close one and reload"
            )
        self.end(oldest)
