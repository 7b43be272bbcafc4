"""Builds the Cython modules; everything else about the package is said in pyproject.toml.

Every extension carries the fingerprint of what it was made from (its own source, all headers and
declarations, this file and pyproject.toml). A build replaces exactly those extensions whose fingerprint
differs, whatever the clocks of the files say; a wheel takes those that already lie beside their sources.
tests/test_build.py compares the fingerprints with the sources: a stale build cannot pass for a fresh one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
import threading
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MARK = "ratelimitd-source:"


def compiled_sources() -> list[Path]:
    """The .pyx files of the package, as paths relative to the root."""
    return sorted(path.relative_to(ROOT) for path in ROOT.glob("ratelimitd/**/*.pyx"))


def fingerprint(source: Path) -> str:
    """What an extension built now from `source` carries."""
    shared = [path for pattern in ("*.pxd", "*.h") for path in ROOT.glob(f"ratelimitd/**/{pattern}")]
    digest = hashlib.sha256()
    for path in (source, *sorted(path.relative_to(ROOT) for path in shared), "setup.py", "pyproject.toml"):
        digest.update(f"{path}\0".encode() + hashlib.sha256((ROOT / path).read_bytes()).digest())
    return MARK + digest.hexdigest()[:32]


def carries(extension: Path, mark: str) -> bool:
    """Whether the built file `extension` was made from the sources that `mark` stands for."""
    return extension.is_file() and mark.encode() in extension.read_bytes()


class BuildStale(build_ext):
    """Builds the extensions that are missing or made from other sources, one on each CPU."""

    _cython_is_not_reentrant = threading.Lock()

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        self.force = True  # the fingerprint decides, never the time of a file

    def build_extension(self, ext: Extension) -> None:
        (source,) = ext.sources
        mark = fingerprint(Path(source))
        target = Path(self.get_ext_fullpath(ext.name))
        built = (ROOT / source).with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
        if carries(built, mark):
            if target.absolute() != built:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(built, target)
            return
        print(f"compiling {source}", flush=True)
        ext.define_macros = [*ext.define_macros, ("RATELIMITD_SOURCE", f'"{mark}"')]
        with self._cython_is_not_reentrant:
            (compiled,) = cythonize([ext], force=True, quiet=True, include_path=["."], language_level=3)
        ext.sources = compiled.sources
        super().build_extension(ext)


def extension(source: Path) -> Extension:
    """How one .pyx file is compiled."""
    return Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        include_dirs=["."],
        extra_compile_args=["-O2", "-g0", "-include", "ratelimitd/source_mark.h"],
        extra_link_args=["-pthread"],
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    setup(
        ext_modules=[extension(source) for source in compiled_sources()], cmdclass={"build_ext": BuildStale}
    )
