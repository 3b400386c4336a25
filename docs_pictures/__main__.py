"""Draws the pictures anew: `python -m docs_pictures`."""

from __future__ import annotations

from docs_pictures import FOLDER, pictures

if __name__ == "__main__":
    for name, text in pictures().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
