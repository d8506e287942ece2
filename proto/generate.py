"""Generates proto/python from proto/claimledger, or checks that what is committed is what would be generated.

python proto/generate.py          writes the stubs
python proto/generate.py --check  exits 1 and names each stub that differs, is missing, or has no contract
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUBS = HERE / "python"


def generate(target: Path) -> None:
    """Writes messages, services and their types under `target`. Raises CalledProcessError with protoc's message shown."""
    contracts = sorted(str(p.relative_to(HERE)) for p in (HERE / "claimledger").rglob("*.proto"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    with resources.as_file(resources.files("grpc_tools") / "_proto") as well_known:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"-I{well_known}", *outputs, *contracts]
        subprocess.run(command, check=True, cwd=HERE, env={**os.environ, "PATH": path}, stderr=subprocess.PIPE)


def differences(fresh: Path) -> list[str]:
    """The stubs that are not byte for byte what the contracts give."""
    made = {p.relative_to(fresh): p for p in fresh.rglob("*.py*") if p.suffix in {".py", ".pyi"}}
    kept = {p.relative_to(STUBS): p for p in STUBS.rglob("*.py*") if p.suffix in {".py", ".pyi"}}
    both = made.keys() & kept.keys()
    return sorted(
        [f"{p}: not committed" for p in made.keys() - kept.keys()]
        + [f"{p}: has no contract" for p in kept.keys() - made.keys()]
        + [f"{p}: differs" for p in both if made[p].read_bytes() != kept[p].read_bytes()]
    )


def main() -> int:
    """Runs the check or the generation and says what it did."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        try:
            generate(fresh)
        except subprocess.CalledProcessError as error:
            print(error.stderr.decode(), file=sys.stderr)
            return 1
        if "--check" in sys.argv:
            found = differences(fresh)
            print("\n".join(found) or "stubs are what the contracts give")
            return 1 if found else 0
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(fresh, STUBS)
        print(f"{sum(1 for _ in STUBS.rglob('*.py'))} modules written to {STUBS}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
