"""Plain text for people: tables, shares and counts."""

from collections.abc import Sequence

__all__ = ["percent", "plural", "points", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows in columns; numbers stand to the right.

    Args:
        header: of each column.
        rows: cells, as many as the header has.

    Returns:
        Lines of text.

    Example:
        >>> print(table(["site", "rank"], [["conv_head", 3], ["fc", 12]]))
        site       rank
        conv_head     3
        fc           12
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def percent(share: float | None) -> str:
    """Write a share of 0..1 in percent.

    Returns:
        Text with one decimal; "n/a" for None.

    Example:
        >>> percent(0.4267), percent(None)
        ('42.7 %', 'n/a')
    """
    return "n/a" if share is None else f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """Write a difference of shares in percentage points, with its sign.

    Returns:
        Text with one decimal.

    Example:
        >>> points(-0.004)
        '-0.4 points'
    """
    return f"{100 * difference:+.1f} points"


def plural(count: int, noun: str) -> str:
    """Write a count of things.

    Returns:
        Text.

    Example:
        >>> plural(1, "picture"), plural(3, "picture")
        ('1 picture', '3 pictures')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
