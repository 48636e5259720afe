"""Plots for notebooks: SVG, since the studio does without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLOURS = ("#2563eb", "#d97706", "#059669", "#64748b", "#db2777")
LEFT, RIGHT, TOP, BOTTOM = 40, 520, 20, 230  # px, of the axes


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """A plot of lines from the origin, each named at its end, as SVG; `x` and `y` say what the axes are."""
    points = [point for line in series.values() for point in line]
    right, top = max(point[0] for point in points), 1.1 * max(point[1] for point in points)

    def place(point: tuple[float, float]) -> str:
        return f"{LEFT + (RIGHT - LEFT) * point[0] / right:.1f},{BOTTOM - (BOTTOM - TOP) * point[1] / top:.1f}"

    drawn = [
        f'<path d="M{LEFT},{TOP} V{BOTTOM} H{RIGHT}" fill="none" stroke="#94a3b8"/>',
        f'<text x="{LEFT + 4}" y="{TOP - 4}" font-size="12">{y}, up to {top:.3g}</text>',
        f'<text x="{RIGHT - 120}" y="{BOTTOM + 16}" font-size="12">{x}, up to {right:.3g}</text>',
    ]
    for (name, line), colour in zip(series.items(), COLOURS, strict=False):
        path = [place(point) for point in line]
        end_x, end_y = path[-1].split(",")
        drawn.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{float(end_x) + 6}" y="{end_y}" fill="{colour}" font-size="12">{name}</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="250">{"".join(drawn)}</svg>'
