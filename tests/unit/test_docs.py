"""The pages are correct: links and paths exist, settings and commands are those of the code."""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pingfeed.adapters.registry import ADAPTERS
from pingfeed.command_table import GROUPS
from pingfeed.core.features import PING, USER
from pingfeed.settings import PREFIX, SCHEMES, Settings
from tests import settings_document
from tests.unit import test_as_of
from tests.unit.lakes import FIRST

ROOT = Path(__file__).parents[2]
COMMANDS = {command.name.split()[0] for group in GROUPS.values() for command in group}
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))
OURS = ("pingfeed", "ingest_api", "feed_api", "batch", "simulator", "deploy", "tests", "docs", "benchmarks", "locks")
SUITES = {
    "events_url": "event_sink",
    "lake_url": "lake",
    "artifacts_url": "artifacts",
    "candidates_url": "candidate_store",
    "signals_url": "user_signals",
    "trending_url": "trending",
    "cache_url": "candidate_store",
    "lease_url": "lease",
}


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def code_of(page: str) -> str:
    """All code of a page: its blocks and its backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *spans_of(page)])


def spans_of(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose_of(page))


def headings_of(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def links_of(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose_of(page))


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_has_a_target(page: str) -> None:
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in headings_of(target.resolve().relative_to(ROOT).as_posix()), f"{page} links to {link}"


def paths_in(page: str) -> Iterator[tuple[str, str | None]]:
    """Paths of this repository in backticks, each with the test that is named in it. `<...>` is a placeholder."""
    for span in spans_of(page):
        path, _, test = span.partition("::")
        ours = path.split("/")[0] in OURS and "/" in path and " " not in path
        if "<" not in path and (ours or re.fullmatch(r"[\w./-]+\.(py|sql|toml|md|svg)", path)):
            yield path, test or None


@pytest.mark.parametrize("page", PAGES)
def test_every_path_is_a_file_or_folder(page: str) -> None:
    for path, test in paths_in(page):
        assert (ROOT / path).exists(), f"{page} names {path}"
        if test:
            defined = {node.name for node in ast.walk(ast.parse(text_of(path))) if hasattr(node, "name")}
            assert test in defined, f"{page} names {test} in {path}"


def test_paths_are_found_in_pages() -> None:
    """The test above would be silent if it found none."""
    found = {path for page in PAGES for path, _ in paths_in(page)}
    assert {"pingfeed/core/features.py", "batch/sql/ping_features.sql", "pyproject.toml", "tests/conformance/"} <= found
    assert {"docs/flow.md", "docs/flow.md#the-gate", "docs/images/flow.svg"} <= set(links_of("README.md"))
    assert any(test for page in PAGES for _, test in paths_in(page))


def test_every_decision_is_in_the_list() -> None:
    decisions = {path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")}
    assert set(links_of("docs/decisions/README.md")) == decisions


def test_the_settings_page_is_that_of_the_code() -> None:
    assert settings_document.PAGE.read_text(encoding="utf-8") == settings_document.document(), (
        "run `make settings-docs`"
    )
    rows = [line for line in text_of("docs/settings.md").splitlines() if line.startswith(f"| `{PREFIX}")]
    assert len(rows) == len(fields(Settings))
    assert all(row.rstrip(" |").endswith(".") for row in rows), "each has a sentence"


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_an_unknown_setting(page: str) -> None:
    known = {field.name.upper() for field in fields(Settings)}
    assert set(re.findall(rf"\b{PREFIX}([A-Z_]+)\b", text_of(page))) <= known


def test_every_command_is_mentioned() -> None:
    mentioned = set(re.findall(r"pingfeed ([a-z]+)", "\n".join(spans_of("README.md"))))
    assert mentioned >= COMMANDS


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_an_unknown_command_or_target(page: str) -> None:
    commands = set(re.findall(r"(?:^|[/\s])pingfeed ([a-z]+)", code_of(page), flags=re.MULTILINE))
    assert commands <= COMMANDS
    targets = set(re.findall(r"(?:^|\s)make ([a-z-]+)", code_of(page), flags=re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))


def test_pictures_have_alternative_text() -> None:
    for page in PAGES:
        for words, path in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", prose_of(page)):
            assert len(words) > 20, f"{page} shows {path} without saying what is in it"
    for picture in (ROOT / "docs" / "images").glob("*.svg"):
        root = ElementTree.parse(picture).getroot()
        space = "{http://www.w3.org/2000/svg}"
        assert all((root.findtext(f"{space}{name}") or "").strip() for name in ("title", "desc"))
        assert "prefers-color-scheme: dark" in picture.read_text()


def test_every_ping_and_user_feature_is_recounted() -> None:
    """docs/adding-a-feature.md, step 5. What `evergreen` means has a test of its own."""
    count = test_as_of.Recount([])
    others = {"ping_age_hours", "ping_duration_s", "ping_evergreen"}
    found = set(test_as_of._expected(count, FIRST, PING, ping="p1", creator="c1")) | others
    assert found == {feature.name for feature in PING}
    assert set(test_as_of._expected(count, FIRST, USER, user="ada")) == {feature.name for feature in USER}


@pytest.mark.parametrize("setting", SCHEMES)
def test_every_adapter_is_in_the_suite_of_its_port(setting: str) -> None:
    """docs/adding-an-adapter.md, step 4: `sqlite+redis` tries both, and one of a class's schemes is enough."""
    suite: Any = importlib.import_module(f"tests.conformance.test_{SUITES[setting]}")
    tried = {scheme for name in suite.ADAPTERS for scheme in name.split("+")}
    addresses = ADAPTERS[setting]
    assert {addresses[scheme] for scheme in tried & set(addresses)} == set(addresses.values())


@pytest.mark.parametrize("suite", sorted(set(SUITES.values())))
def test_every_entry_of_a_suite_is_named_after_a_scheme(suite: str) -> None:
    schemes = {scheme for setting, name in SUITES.items() if name == suite for scheme in SCHEMES[setting]}
    tried: Any = importlib.import_module(f"tests.conformance.test_{suite}").ADAPTERS
    assert {name.split("+")[0] for name in tried} <= schemes
