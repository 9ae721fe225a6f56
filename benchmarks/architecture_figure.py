"""Draws the figure of docs/architecture.md from the table of packages on this page.

python benchmarks/architecture_figure.py
"""

import re
from pathlib import Path

PAGE = Path("docs/architecture.md")
WIDTH, HEIGHT, GAP = 800, 26, 6
"""Width of a row, height of a box, and distance between boxes, in pixels."""


def layers(page: str) -> list[list[str]]:
    """Packages of each row of the table in ``page``, from the top row, which may import all others, to the lowest."""
    rows = re.findall(r"^\| (`.+?`) \| ", page.split("## Packages")[1].split("\n## ")[0], re.MULTILINE)
    return [re.findall(r"`(\w+)`", row) for row in rows]


def architecture_svg(rows: list[list[str]]) -> str:
    """SVG with a row of boxes for each of ``rows``."""
    parts = []
    for number, names in enumerate(rows):
        width, y = (WIDTH + GAP) / len(names) - GAP, number * (HEIGHT + GAP) + 1
        for column, name in enumerate(names):
            x = column * (width + GAP) + 1
            parts.append(f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{HEIGHT}" rx="4"/>')
            parts.append(f'<text x="{x + width / 2:g}" y="{y + 18}">{name}</text>')
    style = "rect {fill: #dbe9f6; stroke: #777777} text {fill: #222222; font: 14px sans-serif; text-anchor: middle}"
    box = f"0 0 {WIDTH + 2} {len(rows) * (HEIGHT + GAP)}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">\n<style>{style}</style>'
    return "\n".join([head, *parts, "</svg>\n"])


def main(dst: str = "docs/images/architecture.svg") -> None:
    """Write the figure to ``dst``."""
    Path(dst).write_text(architecture_svg(layers(PAGE.read_text())))


if __name__ == "__main__":
    main()
