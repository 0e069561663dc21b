"""Builds the compiled parts with CMake and Ninja, or notes why it could not.

pyproject.toml describes the package and CMakeLists.txt what is compiled; this file finds the tools.

AUTOEMB_NATIVE  auto: compile where possible (default); 1: a failure is an error; 0: pure Python.
AUTOEMB_CUDA    auto: CUDA where its toolkit is found (default); 1: no toolkit is an error; 0: none.
CMAKE_ARGS      further arguments to CMake.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class BuildError(Exception):
    """The reason, in one line, why something could not be compiled."""


def switch(name: str) -> str:
    value = os.environ.get(name, "auto")
    if value not in ("0", "1", "auto"):
        raise SystemExit(f"{name} is {value!r}; expected 0, 1 or auto")
    return value


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    path = os.pathsep.join([str(Path(home, "bin")), os.environ.get("PATH", "")])
    return shutil.which(os.environ.get("CUDACXX", "nvcc"), path=path)


def run(*command: str) -> None:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed: {first_error(done.stdout)}")


def first_error(output: str) -> str:
    """Return the first message of CMake (which indents its text) or of a compiler, as one line."""
    lines = output.splitlines() or ["no output"]
    is_error = re.compile(r"\berror( at |:)", re.IGNORECASE)
    first = next((i for i, line in enumerate(lines) if is_error.search(line)), len(lines) - 1)
    text = " ".join(takewhile(lambda line: not line.strip() or line[0] == " ", lines[first + 1 :]))
    head = re.sub(r"^CMake Error( at \S+ \(\w+\))?:", "", lines[first])
    return " ".join(f"{head} {text}".split())[:300]


class CMakeBuild(build_ext):
    """One CMake project builds the parts; `_build.json` beside them says which are missing, why."""

    def run(self) -> None:
        package = ROOT / "autoemb" if self.inplace else Path(self.build_lib, "autoemb").resolve()
        package.mkdir(parents=True, exist_ok=True)
        for extension in self.extensions:  # what an earlier build left in an editable install
            name = Path(self.get_ext_filename(extension.name)).name
            package.joinpath(name).unlink(missing_ok=True)
        missing = {name: self.compile(name, package) for name in PARTS}
        package.joinpath("_build.json").write_text(json.dumps(missing, indent=2) + "\n")

    def compile(self, name: str, package: Path) -> str | None:
        """Compile one part; return the reason if it could not be."""
        variable, what = PARTS[name]
        try:
            for off in ("AUTOEMB_NATIVE", variable):
                if switch(off) == "0":
                    raise BuildError(f"switched off by {off}=0")
            options = cuda_options() if name == "_cuda" else []
            self.cmake(package, name, options)
        except BuildError as error:
            if switch(variable) == "1":
                raise SystemExit(f"{variable}=1, but {what}: {error}") from None
            print(f"autoemb: {what} not compiled: {error}", file=sys.stderr)
            return str(error)
        return None

    def cmake(self, package: Path, target: str, options: list[str]) -> None:
        cmake = shutil.which("cmake")
        if cmake is None:
            raise BuildError("cmake not found")
        try:
            import pybind11
        except ImportError:
            raise BuildError("pybind11 not found") from None
        build = str(Path(self.build_temp, target).resolve())
        run(
            cmake,
            # Forget the last build: the tools it found lived in an environment that is gone.
            "--fresh",
            *("-S", str(ROOT), "-B", build, "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={package}",
            *options,
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        )
        run(cmake, "--build", build, "--target", target)


def cuda_options() -> list[str]:
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("no CUDA toolkit: nvcc not in PATH or CUDA_HOME")
    return [f"-DCMAKE_CUDA_COMPILER={nvcc}"]


#: The compiled parts: the switch that makes a failure an error, and what the part is.
PARTS = {
    "_runtime": ("AUTOEMB_NATIVE", "the streaming runtime"),
    "_cpu": ("AUTOEMB_NATIVE", "the native CPU kernels"),
    "_cuda": ("AUTOEMB_CUDA", "the CUDA kernels"),
}

setup(
    ext_modules=[Extension(f"autoemb.{name}", sources=[]) for name in PARTS],
    cmdclass={"build_ext": CMakeBuild},
)
