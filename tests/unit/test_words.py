"""The vocabulary of the code and the docs: the field's terms (docs/glossary.md), not private ones."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("pingfeed", "ingest_api", "feed_api", "batch", "simulator", "deploy")
WORDS = re.compile(
    r"\b(Door|Doorkeeper|Gathered|Learner|Taste|Shelf|Barrier|Stone|nominate|dice)\b"
    r"|\b(?i:nobody|stranger|the night|default ranker|set aside)\b"
)


def pages() -> list[str]:
    code = [path for folder in PRODUCT for end in ("py", "sql", "html") for path in (ROOT / folder).rglob(f"*.{end}")]
    docs = [path for path in (ROOT / "docs").glob("*.md") if path.name != "glossary.md"]
    found = [ROOT / "README.md", *docs, *(ROOT / "docs" / "openapi").glob("*.json"), *code]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@pytest.mark.parametrize("page", pages())
def test_no_private_word_stands_for_a_term_of_the_field(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if WORDS.search(line)] == []


@pytest.mark.parametrize("text", ["class Door:", "a Stranger gets a feed", "moved in The night", "rng.dice"])
def test_private_words_are_found(text: str) -> None:
    assert WORDS.search(text)


@pytest.mark.parametrize("text", ["the nightly job", "indoor", "predice", "milestone", "doors"])
def test_other_words_are_left_alone(text: str) -> None:
    assert not WORDS.search(text)
