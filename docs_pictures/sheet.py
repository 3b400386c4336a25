"""What all pictures share: size, colours for light and dark pages, line patterns, arrow heads."""

from __future__ import annotations

from xml.sax.saxutils import escape

__all__ = ["WIDTH", "sheet"]

WIDTH = 760

# The page's own ground, so that a picture is legible on a page that does not follow the system's scheme.
_STYLE = """
  svg { font: 15px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: #18202b }
  .ground { fill: #ffffff }
  .band { fill: #f0f3f6 }
  .box { fill: #ffffff; stroke: currentColor; stroke-width: 1.5 }
  .grid { stroke: #dde3ea; stroke-width: 1 }
  text { fill: currentColor }
  .strong { font-weight: 600 }
  .small { font-size: 13px }
  .muted { fill: #566272 }
  .middle { text-anchor: middle }
  .end { text-anchor: end }
  .line { fill: none; stroke: currentColor; stroke-width: 1.5 }
  .head { fill: currentColor }
  .faint { stroke-dasharray: 4 4 }
  .curve { fill: none; stroke-width: 2.5 }
  .a { stroke: #1d5fa8 }
  .b { stroke: #d0621b; stroke-dasharray: 9 5 }
  .c { stroke: #0b7a5f; stroke-dasharray: 2 4 }
  .d { stroke: #566272; stroke-dasharray: 12 4 2 4 }
  @media (prefers-color-scheme: dark) {
    svg { color: #e4e9f0 }
    .ground { fill: #161b22 }
    .band { fill: #1c232c }
    .box { fill: #161b22 }
    .grid { stroke: #29323d }
    .muted { fill: #9aa7b7 }
    .a { stroke: #5b9fe3 }
    .b { stroke: #ef8f4a }
    .c { stroke: #45c19f }
    .d { stroke: #9aa7b7 }
  }
"""
_HEAD = (
    '<marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
    ' orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/></marker>'
)


def sheet(title: str, description: str, height: int, body: str) -> str:
    """A whole SVG file around `body`, `WIDTH` wide."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-labelledby="title description">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>\n'
        f"<style>{_STYLE}</style>\n<defs>{_HEAD}</defs>\n"
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>\n{body.strip()}\n</svg>\n'
    )
