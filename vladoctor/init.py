"""Writes a run file for a checkpoint by asking its files; every value says in a comment where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vladoctor.errors import UserError
from vladoctor.facts.system import SUITES, suites_in
from vladoctor.loop import HORIZONS
from vladoctor.profiles import find_profile
from vladoctor.report.json import write_atomically
from vladoctor.snapshot import Snapshot

DEEPEST = 3
"""Folders below the current one in which a checkpoint is looked for."""

PUBLISHED = 50
"""Init states of each of LIBERO's tasks."""

GIB = 2**30


@dataclass(frozen=True)
class Written:
    """What was written."""

    file: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """`key: value  # why`; of a heading, the key alone."""

    key: str
    value: str = ""
    why: str = ""
    depth: int = 1


def write_run(checkpoint: Path | None, suite: str | None, out: Path, *, force: bool = False) -> Written:
    """Write a run file for a checkpoint.

    Args:
        checkpoint: the snapshot's folder; None looks for one in and below the current folder.
        suite: LIBERO's; None takes the one that the checkpoint has statistics of, or is named after.

    Raises:
        OSError: it cannot be written.
        UserError: the file is there already, there is no checkpoint or several, or it is not known which suite.
    """
    if out.is_dir():
        raise UserError("this is a folder", where=str(out), remedy="name the file to write with -o")
    if out.exists() and not force:
        raise UserError("this file is there already", where=str(out), remedy="name another with -o, or say --force")
    snapshot = Snapshot(checkpoint) if checkpoint is not None else _found()
    if not snapshot.path.is_dir():
        raise UserError("there is no such folder", where=str(snapshot.path), remedy="name the snapshot's own folder")
    if not snapshot.is_openvla():
        kind = snapshot.config.get("model_type") or snapshot.config.get("type") or "?"
        raise UserError(
            f"this checkpoint is a {kind}; vladoctor's own loop runs checkpoints in OpenVLA's format",
            where=str(snapshot.path / "config.json"),
            remedy="watch your own loop instead: vladoctor diagnose -- python eval.py --its options",
        )
    chosen, why = _suite(snapshot, suite)
    warnings: list[str] = []
    text = "\n".join(_text(snapshot, chosen, why, out, warnings)) + "\n"
    write_atomically(out, text)
    return Written(out, tuple(warnings))


def _found() -> Snapshot:
    """The one checkpoint in or below the current folder."""
    here = Path()
    folders = [here, *(folder for depth in range(1, DEEPEST + 1) for folder in here.glob("/".join("*" * depth)))]
    found = [
        folder
        for folder in folders
        if folder.is_dir() and (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    ]
    found = [folder for folder in found if not any(part.startswith(".") and part != "." for part in folder.parts)]
    if len(found) == 1:
        return Snapshot(found[0])
    if not found:
        raise UserError(
            "no checkpoint was found in this folder or below it (config.json beside *.safetensors)",
            where=str(here.absolute()),
            remedy="name its folder: vladoctor init --checkpoint weights/openvla-7b-finetuned-libero-object",
        )
    listed = ", ".join(map(str, found[:5])) + (" ..." if len(found) > 5 else "")
    raise UserError(f"there are {len(found)} checkpoints: {listed}", where=".", remedy="name one with --checkpoint")


def _suite(snapshot: Snapshot, asked: str | None) -> tuple[str, str]:
    """The suite, and how it is known."""
    if asked is not None:
        if asked not in HORIZONS:
            raise UserError(
                f"LIBERO has no suite {asked!r}", where="--suite", remedy=f"use one of {', '.join(HORIZONS)}"
            )
        return asked, "as asked for"
    table, file = snapshot.statistics
    by_key = sorted({suite for key in table for suite in suites_in(key)}, key=SUITES.index)
    if len(by_key) == 1:
        return by_key[0], f"the checkpoint has statistics of it ({file})"
    by_name = suites_in(snapshot.path.resolve().name)
    if len(by_name) == 1 and (not by_key or by_name[0] in by_key):
        return by_name[0], "the checkpoint is named after it"
    if by_key:
        raise UserError(
            f"the checkpoint has statistics of {len(by_key)} suites: {', '.join(by_key)}",
            where=file,
            remedy=f"choose one: vladoctor init --suite {by_key[0]}",
        )
    raise UserError(
        "the checkpoint does not say which of LIBERO's suites it was trained for: it has "
        + (f"statistics of {', '.join(sorted(table)[:5])}" if table else "no statistics"),
        where=file or str(snapshot.path),
        remedy=f"name it: vladoctor init --suite {HORIZONS and next(iter(HORIZONS))}; a checkpoint without its "
        "statistics will not do there",
    )


def _text(snapshot: Snapshot, suite: str, why: str, out: Path, warnings: list[str]) -> Iterator[str]:
    profile = find_profile(snapshot.facts(), suite)
    yield f"# {snapshot.path.resolve().name} in {suite}. By `vladoctor init`; a # says where a value comes from."
    yield "#   vladoctor preflight " + str(out) + "      # look before it runs"
    yield "#   vladoctor diagnose " + str(out)
    yield f"# Judged by the profile {profile.name}: {profile.reason}."
    if profile.name == "unknown":
        warnings.append(f"nothing is expected of this checkpoint: {profile.reason}")
    lines = [*_model(snapshot, suite, profile.get("image.center_crop_area"), out, warnings), *_env(suite, why, profile)]
    lines += [_Line("report", depth=0), _Line("folder", f"reports/{out.stem}", "relative to the folder you are in")]
    width = max(
        len(f"{'  ' * line.depth}{line.key}: {line.value}") for line in lines if line.why and len(line.value) < 40
    )
    for line in lines:
        if line.depth == 0:
            yield ""
        written = f"{'  ' * line.depth}{line.key}:{' ' + line.value if line.value else ''}"
        yield f"{written:<{width}}  # {line.why}" if line.why else written


def _model(snapshot: Snapshot, suite: str, crop: object, out: Path, warnings: list[str]) -> Iterator[_Line]:
    weights = snapshot.weights
    if weights.problems:
        warnings.append(f"the weights are not complete: {weights.problems[0]}")
    yield _Line("model", depth=0)
    yield _Line(
        "path", _quoted(_relative(snapshot.path, out)), f"{_size(weights.values)}relative to this file, or absolute"
    )
    yield _Line("device", "auto", "the first GPU if there is one")
    usual = "bfloat16" if weights.dtype in ("bfloat16", "float16") else "float32"
    if weights.floats and weights.floats * 2 > GIB:
        yield _Line(
            "dtype",
            "bfloat16",
            f"the files hold {weights.dtype or 'nothing known'}; the official evaluation loads bfloat16",
        )
    elif weights.dtype:
        yield _Line("# dtype", usual, f"the files hold {weights.dtype}; by default bfloat16 on a GPU, float32 on a CPU")
    table, file = snapshot.statistics
    key = next((name for name in (suite, f"{suite}_no_noops") if name in table), None)
    if key is not None:
        others = f", of {len(table)} there" if len(table) > 1 else ""
        yield _Line("unnorm_key", _quoted(key), f"{file}{others}")
    else:
        has = ", ".join(sorted(table)[:4]) or "none"
        warnings.append(f"the checkpoint has no statistics of {suite} (it has {has}): VD501 will say so")
        yield _Line("# unnorm_key", suite, f"no such statistics in the checkpoint; it has {has}")
    cropped, because = _center_crop(snapshot, crop)
    yield _Line("center_crop", "true" if cropped else "false", because)


def _center_crop(snapshot: Snapshot, area: object) -> tuple[bool, str]:
    """No file of a snapshot says whether it was trained with image augmentation but run names and READMEs."""
    name = snapshot.path.resolve().name
    if "image_aug" in name:
        return True, "its name says that it was trained with image_aug"
    if area is not None:
        return True, f"as the published evaluation of this family (area {area}); false if trained without image_aug"
    return True, "not known; true where it was trained with image_aug"


def _env(suite: str, why: str, profile: object) -> Iterator[_Line]:
    assets, note = _assets(suite)
    yield _Line("env", depth=0)
    yield _Line("suite", suite, why)
    yield _Line("tasks", "[0]", "`all` for every task of the suite")
    yield _Line("init_states", "{first: 0, count: 10}", f"the official evaluation takes {PUBLISHED} for each task")
    yield _Line("assets", assets, note)
    yield _Line("# horizon", str(HORIZONS[suite]), "the suite's, by default")


def _assets(suite: str) -> tuple[str, str]:
    """The real ones where they are; for libero_object the stand-ins else."""
    from vladoctor.adapters import libero

    try:
        return "auto", libero.find_assets("auto").note
    except UserError:
        pass
    if suite == "libero_object":
        return "stand-in", "LIBERO's own are not on this machine; success counts with `auto` only"
    return "auto", "LIBERO's own, which are not on this machine (docs/install.md)"


def _relative(path: Path, out: Path) -> str:
    """Beside the run file or below it: relative; elsewhere: absolute."""
    base, there = out.absolute().parent.resolve(), path.resolve()
    return str(there.relative_to(base)) if there.is_relative_to(base) else str(there)


def _quoted(text: str) -> str:
    """Quoted where YAML would take it for something else."""
    plain = all(sign.isalnum() or sign in "/_.-" for sign in text) and not text.replace(".", "").isdigit()
    return text if plain and not text.startswith("-") else "'" + text.replace("'", "''") + "'"


def _size(values: int) -> str:
    return (
        f"{values / 1e9:.2f} B parameters; "
        if values >= 1e8
        else f"{values / 1e6:.1f} M parameters; "
        if values
        else ""
    )
