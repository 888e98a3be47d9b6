#!/usr/bin/env python3
"""Make a home folder in which a program that knows nothing of vladoctor finds LIBERO configured, with assets.

    python tests/clients/libero_home.py FOLDER        prints the variables to set, as `export NAME=value`

LIBERO offers no variable for its assets, and no setting either: the key `assets` of its config.yaml is never read. It
looks for `assets` next to its own code and then in `.cache/libero/assets` below the home folder. From outside, without
touching the installation, only HOME is left.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from vladoctor.adapters import libero
from vladoctor.errors import UserError


def make_libero_home(folder: Path, assets: str = "stand-in") -> dict[str, str]:
    """Fill a folder and return the environment variables that make LIBERO use it; no network, repeatable.

    Args:
        folder: becomes HOME of the program; made if missing.
        assets: as in run.yaml, "stand-in" (libero_object only), "real" or a folder.

    Raises:
        UserError: LIBERO is not installed, it has assets of its own, or the assets asked for are not there.
    """
    folder = folder.resolve()
    root = libero._package_root()
    if (root / "assets").exists() and assets == "stand-in":
        raise UserError(
            "this LIBERO has assets next to its code and takes those whatever HOME is",
            where=str(root / "assets"),
            remedy="use the package hf-libero, which comes without",
        )
    source = libero._find_assets(assets, root)
    _link_assets(source.path, folder / ".cache" / "libero" / "assets")
    # Without this file the first import asks on stdin. Its folder is LIBERO's default below HOME, but the variable, if
    # the caller has set one, would win.
    config = folder / ".libero"
    config.mkdir(parents=True, exist_ok=True)
    paths = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": folder / "datasets",
        "assets": source.path,
    }
    text = "".join(f"{key}: {value}\n" for key, value in paths.items())
    (config / "config.yaml").write_text(text, encoding="utf-8")
    variables = {
        "HOME": str(folder),
        "LIBERO_CONFIG_PATH": str(config),
        "MUJOCO_GL": "egl",
        # Says at once that a name is not on this machine, where the hub cannot be reached.
        "HF_HUB_OFFLINE": "1",
    }
    # robosuite takes "" or -1 for the number of an EGL device (vladoctor.adapters.libero, _set_rendering).
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not libero._device_list(visible):
        variables["MUJOCO_EGL_DEVICE_ID"] = "0"
    return variables


def _link_assets(source: Path, target: Path) -> None:
    """Link what is in `source` and add empty folders: LIBERO counts four by name before it believes in the rest."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        link = target / entry.name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(entry.resolve())
    for name in libero.ASSET_FOLDERS:
        if not (target / name).exists():
            (target / name).mkdir()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a home folder in which LIBERO is configured, with assets.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", default="stand-in", help="stand-in (libero_object only), real, or a folder")
    arguments = parser.parse_args()
    for name, value in make_libero_home(arguments.folder, arguments.assets).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
