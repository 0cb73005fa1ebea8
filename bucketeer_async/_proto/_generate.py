"""Generator of the modules beside the .proto files. With ``--check``, it only compares, and fails on a difference.

Run by ``nox -s protos``; needs grpcio-tools and mypy-protobuf. A generated module holds the serialized file descriptor
and loads it into the private pool of `_pool.py`, so it depends on no version of protobuf's generator.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

HERE = Path(__file__).parent
PACKAGE = "bucketeer_async._proto"
ROOT = "proto"  # upstream's folder, which is in the names by which the files import each other
WIDTH = 100


def sources() -> list[Path]:
    """Return the paths of the .proto files, relative to this folder."""
    return sorted(path.relative_to(HERE) for path in HERE.rglob("*.proto"))


def generate() -> dict[Path, str]:
    """Return the text of every generated file, by its path relative to this folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = []
        for source in sources():
            target = root / ROOT / source
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE / source, target)
            names.append(f"{ROOT}/{source.as_posix()}")
        _protoc(root, names)
        files = descriptor_pb2.FileDescriptorSet.FromString((root / "set.binpb").read_bytes())
        generated = {_module_path(file.name): _module(file) for file in files.file}
        for source in sources():
            stub = source.with_name(f"{source.stem}_pb2.pyi")
            generated[stub] = _stub((root / ROOT / stub).read_text())
    return generated


def _protoc(root: Path, names: list[str]) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--descriptor_set_out={root / 'set.binpb'}"]
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    command += [f"--plugin=protoc-gen-mypy={plugin}", f"--mypy_out=quiet:{root}", *names]
    subprocess.run(command, check=True)


def _module_path(name: str) -> Path:
    path = Path(name).relative_to(ROOT)
    return path.with_name(f"{path.stem}_pb2.py")


def _module(file: descriptor_pb2.FileDescriptorProto) -> str:
    imports = [
        f"import {PACKAGE}.{name.removeprefix(ROOT + '/').removesuffix('.proto').replace('/', '.')}_pb2  # noqa: F401"
        for name in file.dependency
        if name.startswith(ROOT + "/")
    ]
    serialized = file.SerializeToString(deterministic=True)
    chunks = [serialized[start : start + WIDTH] for start in range(0, len(serialized), WIDTH)]
    lines = "\n".join(f"    {chunk!r}" for chunk in chunks)
    return "\n".join(
        [
            f"# Generated from {file.name} by `nox -s protos`. Do not edit.",
            *imports,
            f"from {PACKAGE}._pool import load as _load",
            "",
            f"_load({file.name!r}, (",
            lines,
            "), globals())",
            "",
        ]
    )


def _stub(text: str) -> str:
    text = re.sub(rf"^from {ROOT}\.", f"from {PACKAGE}.", text, flags=re.MULTILINE)
    return re.sub(rf"^from {ROOT} import", f"from {PACKAGE} import", text, flags=re.MULTILINE)


def main(arguments: list[str]) -> int:
    """Write the files, or compare them; return the exit status."""
    generated = generate()
    if arguments == ["--check"]:
        old = {path: path_text for path in generated if (path_text := _read(HERE / path)) is not None}
        stale = [str(path) for path, text in generated.items() if old.get(path) != text]
        print("\n".join(["stale, run `nox -s protos`:", *stale]) if stale else f"{len(generated)} files are current")
        return 1 if stale else 0
    for path, text in generated.items():
        (HERE / path).write_text(text)
    print(f"{len(generated)} files written")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
