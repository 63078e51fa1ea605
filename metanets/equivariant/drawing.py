"""Pictures of diagrams, as SVG documents."""

from collections.abc import Sequence
from html import escape

from metanets.equivariant.diagrams import LOOSE, Diagram

STEP, TOP, BOTTOM, MARGIN = 44, 34, 134, 30
COLOURS = ("#0b6e99", "#c2571a", "#2f8f5b", "#7a4fa3", "#b0357a", "#6b6b1f", "#3b4ba8", "#a33b3b")


def svg(diagram: Diagram, title: str = "", edges: Sequence[tuple[int, int]] = ()) -> str:
    """Draw a diagram: upper points above, a colour for every block, the head on the right, edges of a graph dashed.

    Args:
        diagram: what to draw.
        title: written below.
        edges: pairs of vertices of a bilabelled graph; those past the blocks are unlabelled.

    Returns:
        A complete SVG document.
    """
    widest = max(diagram.upper, diagram.lower, 1)
    spare = max((v - len(diagram.blocks) + 1 for edge in edges for v in edge), default=0)
    right = bool(diagram.head) or spare > 0
    width, height = 2 * MARGIN + (widest - 1) * STEP + 70 * right, BOTTOM + (50 if title else 28)
    left = max(0, 8 * len(title) - width) // 2  # so that the title fits
    width += 2 * left

    def place(point: int) -> tuple[float, float]:
        row, index, count = (
            (TOP, point, diagram.upper) if point < diagram.upper else (BOTTOM, point - diagram.upper, diagram.lower)
        )
        return left + MARGIN + STEP * (index + (widest - count) / 2), row

    parts: list[str] = []
    centres: list[tuple[float, float]] = []
    for number, block in enumerate(diagram.blocks):
        colour = COLOURS[number % len(COLOURS)]
        spots = [place(point) for point in block]
        centre = _centre(spots, diagram, block)
        centres.append(centre)
        for x, y in spots if len(spots) > 2 else spots[:1] * (len(spots) == 2):
            target = centre if len(spots) > 2 else spots[1]
            parts.append(_string((x, y), target, centre, colour))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>' for x, y in spots]
    head = (width - left - MARGIN - 10.0, (TOP + BOTTOM) / 2)
    for tentacle in diagram.head:
        x, y = centres[tentacle] if tentacle != LOOSE else (head[0] + 14, head[1] + 34)
        parts.append(
            f'<path d="M{head[0]:.1f},{head[1]:.1f} Q{(head[0] + x) / 2:.1f},{head[1]:.1f} {x:.1f},{y:.1f}" fill="none" stroke="#888" stroke-width="1.6"/>'
        )
    if diagram.head:
        parts.append(f'<path d="M{head[0] - 13:.1f},{head[1] + 5:.1f} a13,13 0 0 1 26,0 z" fill="#888"/>')
    centres += [(head[0], TOP + 20.0 + 32 * i) for i in range(spare)]
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="#444"/>'
        for x, y in centres[len(diagram.blocks) :]
    ]
    for a, b in edges:
        (x, y), (u, v) = centres[a], centres[b]
        parts.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}" stroke="#444" stroke-width="1.4" stroke-dasharray="4 3"/>'
        )
    if title:
        parts.append(f'<text x="{width / 2:.1f}" y="{height - 10}" text-anchor="middle" font-family="sans-serif" font-size="13" fill="#444">{escape(title)}</text>')  # fmt: skip
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'  <rect width="{width}" height="{height}" fill="#ffffff"/>\n  {body}\n</svg>\n'
    )


def _centre(spots: Sequence[tuple[float, float]], diagram: Diagram, block: Sequence[int]) -> tuple[float, float]:
    """Where the strings of a block meet: between the rows, or bent inwards when all points are in one row."""
    x, y = (sum(values) / len(spots) for values in zip(*spots, strict=True))
    if len(spots) == 1:
        return spots[0]
    reach = min(45.0, 18 + 0.3 * (spots[-1][0] - spots[0][0]))
    if block[-1] < diagram.upper:
        y += reach
    elif block[0] >= diagram.upper:
        y -= reach
    return x, y


def _string(a: tuple[float, float], b: tuple[float, float], centre: tuple[float, float], colour: str) -> str:
    (x, y), (u, v) = a, b
    bend = y + (centre[1] - y) * 4 / 3 if y == v else (y + v) / 2  # the middle of a cubic is at 3/4 of its bend
    path = f"M{x:.1f},{y:.1f} C{x:.1f},{bend:.1f} {u:.1f},{bend:.1f} {u:.1f},{v:.1f}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.4"/>'
