"""Writes the files: ``python -m tests.program_pages``."""

from __future__ import annotations

from tests.program_pages.files import FOLDERS, texts

if __name__ == "__main__":
    wanted = texts()
    for folder, pattern in FOLDERS.items():
        for path in folder.glob(pattern):
            if path not in wanted:
                path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
