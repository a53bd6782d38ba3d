"""README and docs: commands that the parser takes, links that lead on, figures as measured."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from helpers.documents import blocks

from svfit_diffusion.cli.main import command_parser, main
from svfit_diffusion.settings import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`svfit ([a-z]+)(?=[ `])([^`]*)`")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#([^)\s]*))?\)")
LIKENESS = ROOT / "benchmarks" / "likeness" / "results"
SPEED = ROOT / "benchmarks" / "speed" / "results"


def commands() -> list[str]:
    """All `svfit` commands of indented blocks, each on one line."""
    found = {command for block in blocks()[0] if not block.python for command in block.commands}
    return sorted(command for command in found if command.startswith("svfit "))


def test_there_are_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_that_the_parser_takes(command):
    words = shlex.split(re.split(r" [>|] ", command)[0], comments=True)
    parsed = command_parser().parse_args(words[1:])
    assert callable(parsed.run)


def test_commands_named_in_a_sentence_exist_with_their_flags(capsys):
    for page in PAGES:
        for name, rest in NAMED.findall(page.read_text("utf-8")):
            with pytest.raises(SystemExit) as ended:
                main([name, "--help"])
            known = capsys.readouterr().out
            assert ended.value.code == 0, (page.name, name)
            flags = set(re.findall(r"--[a-z_]+", rest))
            assert all(flag in known for flag in flags), (page.name, name, flags)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", head.lower()).strip() for head in heads)
    return {re.sub(r"\s", "-", head) for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue
        path = page.parent / target
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def cells(path: Path, width: int) -> list[list[str]]:
    """Rows of a page's tables that have so many columns."""
    lines = path.read_text("utf-8").splitlines()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines]
    return [row for row in rows if len(row) == width]


def test_the_table_of_speed_is_the_measured_one():
    assert cells(ROOT / "docs" / "speed.md", 7) == cells(SPEED / "speed.md", 7)


def test_the_readme_is_short_and_its_comparison_is_measured():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 180
    table = {row[0]: row[1:] for row in cells(ROOT / "README.md", 4)}
    rows = json.loads((LIKENESS / "sealed.json").read_text("utf-8"))["rows"]
    found = {row["method"]: row["fidelity"][0] for row in rows}
    ours = [f"{found[name]:.3f}" for name in ("ti", "lora-4-help", "default")]
    assert table["likeness, with the same word and captions"] == ours
    rows = json.loads((SPEED / "load.json").read_text("utf-8"))["rows"]
    load = next(row for row in rows if row["claim"] == "load, basis cached")
    swap = next(row for row in rows if row["claim"] == "swap")
    assert table["load, relative to the LoRA"][2] == f"{load['ratio']:.2f}"
    times = [f"{swap['theirs']:.2f} s", f"{swap['ours']:.3f} s"]
    assert table["switch to another subject"][1:] == times


def test_the_readmes_bases_are_those_of_the_whole_table():
    """Values, words and kilobytes, each of a base of that row, or of the "others" from least to
    most.
    """
    counted = [row for row in cells(ROOT / "docs" / "bases.md", 10) if " bytes" in row[5]]
    sizes = {row[0]: [re.sub(r"\D", "", row[i]) for i in (3, 4, 5)] for row in counted}

    def shown(text: str) -> set[str]:
        return set(re.findall(r"[\d,.]+\d", text.replace(",", "")))

    bases = re.findall(r"^\| family .*?\n\n", (ROOT / "README.md").read_text(), re.M | re.S)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in bases.splitlines()[2:-1]]
    left = set(sizes)
    for family, names, values, file in rows:
        told = family if family != "others" else names
        ours = {name for name in left if name.startswith(tuple(re.split(r" / |, ", told)))}
        left -= ours
        numbers = {number for name in ours for number in sizes[name][:2]}
        kilobytes = {f"{int(sizes[name][2]) / 1000:.1f}" for name in ours}
        assert ours and shown(values) <= numbers and shown(file) <= kilobytes, family
    assert not left


def test_the_rows_of_good_and_bad_results_are_trainings():
    """docs/draw_results.py, which takes minutes, asks for settings that there are."""
    module = runpy.run_path(str(ROOT / "docs" / "draw_results.py"))
    for row in module["ROWS"]:
        TrainConfig(instance_data_dir="photos", **row.settings)
