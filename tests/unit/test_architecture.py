"""Who may import whom, what the SDK drags in, and that every module says what it is."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("sampler_service", "trainer_client")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What `pip install curriculum-sampler` brings, by the names one imports.
SDK_PACKAGES = ("grpc", "google", "numpy", "typing_extensions", "curriculum", "trainer_client")


def test_the_import_rules_hold():
    # In a process of its own: it disables the loggers of the one it runs in.
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as check; check()",
            "--no-cache",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_import_rules_name_every_part_of_the_service():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = [c["layers"] for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    named = {part.strip() for layer in layers for part in layer.replace("|", ":").split(":")}
    service = ROOT / "sampler_service"
    parts = {path.parent.name for path in service.glob("*/__init__.py")}
    parts |= {path.stem for path in service.glob("*.py") if not path.stem.startswith("__")}
    assert named == {f"sampler_service.{part}" for part in parts}


def test_the_sdk_imports_where_only_its_own_requirements_are_installed():
    answer = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALONE, *SDK_PACKAGES],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr


_IMPORT_ALONE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
import trainer_client.client, trainer_client.exceptions
trainer_client.client.CurriculumClient("localhost:1").close()
"""


def test_every_module_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert MODULES
    assert not silent, f"without a docstring: {', '.join(silent)}"


def test_the_generated_stubs_lie_beside_every_proto():
    for proto in (ROOT / "proto").rglob("*.proto"):
        assert proto.with_name(f"{proto.stem}_pb2.py").exists()
        assert proto.with_name(f"{proto.stem}_pb2.pyi").exists()
