"""How much longer a search takes: what it may still measure, at the speed so far."""

__all__ = ["Forecast"]


class Forecast:
    """Speed at which edits are measured.

    Examples:
        >>> forecast = Forecast()
        >>> forecast.seconds_for(50) is None
        True
        >>> forecast.add(images=10, seconds=9.0)  # the first records activations, and tells nothing
        >>> forecast.add(images=10, seconds=1.0)
        >>> forecast.seconds_for(50)
        5.0
    """

    def __init__(self) -> None:
        self._images, self._seconds = 0, 0.0
        self._is_first = True

    def add(self, images: int, seconds: float) -> None:
        """Learn from an edit that was measured on some images."""
        if self._is_first:
            self._is_first = False
            return
        self._images += images
        self._seconds += seconds

    def seconds_for(self, images: int) -> float | None:
        """How long so many images take, over all edits; None while there is nothing to go by."""
        return self._seconds / self._images * images if self._images else None
