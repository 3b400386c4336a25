"""The built wheel, in environments of its own: SDK alone, and service without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("wheel")]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Its output; away from the checkout, and without what pytest puts on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SAMPLER_"))}
    answer = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answer.returncode == 0, f"{' '.join(map(str, command))}\n{answer.stdout[-4000:]}"
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from an sdist of the checkout, as a release is."""
    out = tmp_path_factory.mktemp("dist")
    # Building leaves and removes folders beside the sources, while other tests copy those.
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "site", "runs")
    )
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=out)
    (found,) = out.glob("*.whl")
    assert list(out.glob("*.tar.gz"))
    return found


def environment_with(wheel: Path, extras: str, directory: Path) -> Path:
    """The bin folder of a fresh virtual environment with the wheel in it."""
    run(sys.executable, "-m", "venv", directory, cwd=directory.parent)
    bin_ = directory / "bin"
    requirement = f"curriculum-sampler{extras} @ {wheel.as_uri()}"
    run(bin_ / "pip", "install", "-q", "-c", ROOT / "constraints.txt", requirement, cwd=directory)
    return bin_


def test_the_wheel_holds_the_page_the_protos_and_the_types(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "sampler_service/dashboard/static/index.html",
        "sampler_service/dashboard/static/vendor/uplot/LICENSE",
        "sampler_service/py.typed",
        "trainer_client/py.typed",
        "curriculum/py.typed",
        "curriculum/v1/curriculum.proto",
        "curriculum/v1/curriculum_pb2.pyi",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "examples/"))]
    static = ROOT / "sampler_service" / "dashboard" / "static"
    missing = [
        str(path.relative_to(ROOT)) for path in static.rglob("*")
        if path.is_file() and str(path.relative_to(ROOT)) not in names
    ]  # fmt: skip
    assert not missing


@pytest.fixture(scope="module")
def sdk(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the base install."""
    return environment_with(wheel, "", tmp_path_factory.mktemp("sdk") / "venv")


def test_the_base_install_is_the_sdk_without_torch_and_pydantic(sdk: Path, tmp_path: Path):
    bin_ = sdk
    installed = run(bin_ / "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert "torch" not in installed
    assert "pydantic" not in installed
    said = run(
        bin_ / "python", "-c", "import trainer_client.client as c; print(c.CurriculumClient)", cwd=tmp_path
    )
    assert "CurriculumClient" in said


@pytest.mark.parametrize(
    ("command", "extra"), [("sampler-service", "[service,embedded]"), ("trainer-client", "[trainer]")]
)
def test_without_its_extra_a_command_names_it(sdk: Path, tmp_path: Path, command: str, extra: str):
    answer = subprocess.run([sdk / command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: ")
    assert f"curriculum-sampler{extra}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_service_runs_from_the_wheel_without_torch_and_the_sdk_beside_it(
    wheel: Path, sdk: Path, tmp_path: Path
):
    bin_ = environment_with(wheel, "[service,embedded]", tmp_path / "venv")
    installed = run(bin_ / "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert "torch" not in installed
    token = run(bin_ / "sampler-service", "tokens", "create", "me", "--role", "admin", cwd=tmp_path).split()[
        0
    ]
    ports = ["--grpc-port", "0", "--http-port", "0"]
    output = tmp_path / "service.log"
    with output.open("wb") as log:
        service = subprocess.Popen(
            [
                bin_ / "sampler-service",
                "serve",
                "--token-file",
                "tokens.yaml",
                *ports,
            ],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        grpc = ready_address(service, output)
        said = run(sdk / "python", "-c", _CLIENT, grpc, cwd=tmp_path, SAMPLER_TOKEN=token)
        assert said.split() == ["4", "2"]
        listed = [bin_ / "sampler-service", "curricula", "list", "--target", grpc]
        assert "wheel" in run(*listed, cwd=tmp_path, SAMPLER_TOKEN=token)
    finally:
        service.terminate()
        assert service.wait(120) == 0


_CLIENT = """
import sys
from trainer_client.client import CurriculumClient
with CurriculumClient(sys.argv[1]) as client:
    client.create_curriculum("wheel", "uniform-grpo")
    print(client.add_prompts("wheel", ["a", "b", "c", "d"]).total)
    batch = client.next_batch("wheel", batch_size=2)
    client.report(batch, rewards=[[1.0] * int(n) for n in batch.quotas])
    print(client.summary("wheel").groups)
"""


def ready_address(service: subprocess.Popen[bytes], output: Path) -> str:
    """The API's address, from the line that says that the service is ready."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for line in output.read_text().splitlines():
            if line.startswith("ready grpc="):
                return line.split()[1].removeprefix("grpc=")
        assert service.poll() is None, output.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the service is not ready:\n{output.read_text()}")
