"""Packaging: pinned versions, one version number, references between files."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sklearn_deq

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ["sklearn_deq", "tests", "examples", "benchmarks", "docs", ".github", ".ci"]
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".toml", ".txt", ".cff", ""}


def _text_files():
    # In a worktree .git is a file, which says where it belongs.
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in files if path.suffix in SUFFIXES]


def _pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_no_path_of_a_machine_and_no_index_url():
    # Put together here, so that this file does not find itself.
    folders = "|".join(["work", "root", "home", "Users"])
    pattern = re.compile(rf"(?<![\w.])/({folders})/\w|--(extra-)?index-{'url'}")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in _text_files()
        for match in pattern.finditer(path.read_text("utf-8", errors="ignore"))
    ]
    assert not found


def test_constraints_are_plain_pins():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in _pins())


@pytest.mark.parametrize(
    "group", ["dependencies", "test", "plot", "bench", "docs", "release"]
)
def test_what_the_tests_install_is_pinned_within_bounds(group):
    project = PROJECT["project"]
    optional = project["optional-dependencies"]
    needed = project[group] if group == "dependencies" else optional[group]
    pins = {_normal(r.name): r for r in map(Requirement, _pins())}
    for requirement in map(Requirement, needed):
        assert _normal(requirement.name) in pins
        version = str(pins[_normal(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(version)


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_version_has_one_source():
    assert "version" in PROJECT["project"]["dynamic"]
    assert Version(sklearn_deq.__version__)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {sklearn_deq.__version__}\n" in citation


def test_sections_of_the_theory_that_the_code_cites_exist():
    theory = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", theory, re.MULTILINE))
    assert {"1", "5.1", "7"} <= sections
    for path in (ROOT / "sklearn_deq").rglob("*.py"):
        text = " ".join(path.read_text(encoding="utf-8").replace("#", " ").split())
        cited = re.findall(r"docs/theory\.md, section (\d+(?:\.\d+)?)", text)
        assert set(cited) <= sections, path.name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_description_on_an_index_has_no_relative_links():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        text, count = re.subn(rule["pattern"], rule["replacement"], text)
        assert count
    assert re.findall(r"\]\((?!https?:)([^)]+)\)", text) == []


def test_versions_of_python_are_those_that_are_tested():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[.*\]", workflow)[0])
    prefix = "Programming Language :: Python :: 3."
    named = [c for c in PROJECT["project"]["classifiers"] if c.startswith(prefix)]
    assert [c.rpartition(" ")[2] for c in named] == tested


def test_files_that_make_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"[\w./-]+\w\.(?:py|md|txt)\b", makefile):
        assert (ROOT / name).exists(), name


def test_the_source_archive_has_what_its_tests_and_make_need():
    # Hatch adds pyproject.toml and the licence by itself, the README no longer.
    files = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name).exists() for name in files)
    needed = {"README.md", "CONTRIBUTING.md", "CITATION.cff", "constraints.txt"}
    assert {*needed, "Makefile", *FOLDERS, ".pre-commit-config.yaml"} <= set(files)
