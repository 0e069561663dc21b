"""Write every generated page and figure: ``python -m bench.pages``."""

from __future__ import annotations

from autoemb.files import write_text
from bench.pages import figures
from bench.pages.records import FIGURES
from bench.pages.site import every


def main() -> None:
    made = every()
    for path, text in made.items():
        write_text(path, text)
    for path in FIGURES.glob("*.svg"):
        if figures.is_drawn(path.stem) and path not in made:
            path.unlink()


if __name__ == "__main__":
    main()
