"""The folder of an audit: a public manifest, and coins and texts that only the owner reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpjax_accounting import write_text

from dpjax.audit.canaries.coins import Coins
from dpjax.audit.canaries.makers.base import Canaries
from dpjax.audit.canaries.manifest import COINS_FILE, RECORDS_FILE, Manifest
from dpjax.audit.canaries.sealing import SALT_BYTES, commitment
from dpjax.privatize import RunKey

MANIFEST_FILE = "manifest.json"
HOLD_OUT = "hold-out"


def seal(
    folder: str | Path,
    coins: Coins,
    *,
    run_key: RunKey,
    canaries: Canaries | None = None,
    kind: str = HOLD_OUT,
) -> Manifest:
    """Writes manifest, coins and canaries, before training.

    `manifest.json` may be published. `private/` (mode 0700) holds `coins.json` and `canaries.json`
    (mode 0600); the manifest fixes both by salted hashes. It is written last: where it is, the
    private files are whole.

    A folder that has this very manifest stays as it is, as when a run goes on after a crash. Coins
    are never flipped a second time over those of an audit that has begun.

    Args:
        folder: made if it does not exist.
        coins: as they were flipped.
        run_key: the secret that flipped them; the salt of the texts comes from it.
        canaries: the records with the ids of the coins; None where they are no texts, or where
            coins split real records.
        kind: what the manifest calls records that are not sealed with the coins.

    Returns:
        the manifest. Its hash belongs where it cannot be changed later, such as a log.

    Raises:
        ValueError: canaries and coins have different ids.
        FileExistsError: the folder has another manifest.
        OSError: the folder cannot be written.
    """
    if canaries is not None and canaries.ids != coins.ids:
        raise ValueError("canaries and coins must have the same ids in the same order")
    texts_salt = run_key.audit_bytes("salt/canaries", SALT_BYTES)
    manifest = Manifest(
        kind=kind if canaries is None else canaries.kind,
        ids=coins.ids,
        probability_out=coins.probability_out,
        fixed_seed=coins.fixed_seed,
        coins_commitment=coins.commitment(),
        records_commitment=(
            None if canaries is None else commitment(canaries.to_dict(), texts_salt)
        ),
    )
    folder = Path(folder)
    if (folder / MANIFEST_FILE).exists():
        _check_same(folder, manifest)
        return manifest
    private = (folder / COINS_FILE).parent
    private.mkdir(parents=True, exist_ok=True)
    private.chmod(0o700)
    _write_private(folder / COINS_FILE, coins.to_dict())
    if canaries is not None:
        value = {"salt": texts_salt.hex(), "canaries": canaries.to_dict()}
        _write_private(folder / RECORDS_FILE, value)
    write_text(folder / MANIFEST_FILE, json.dumps(manifest.to_dict(), indent=2) + "\n")
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """Reads the manifest of an audit.

    Its own hash finds damage. Somebody who edits the file can compute a new hash: compare
    `Manifest.sha256` with the one noted before training.

    Args:
        folder: the one given to `seal`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, cut off or edited.
    """
    path = Path(folder) / MANIFEST_FILE
    fields = _read_json(path)
    try:
        return Manifest.from_dict(fields)
    except ValueError as error:
        raise ValueError(f"{path} is not as it was written: {error}. {_ADVICE}") from None


def open_coins(folder: str | Path) -> Coins:
    """Opens the coins, once all scores are final.

    Args:
        folder: the one given to `seal`.

    Returns:
        the coins, which are those that the manifest fixed before training.

    Raises:
        FileNotFoundError: the manifest or the coins are missing.
        ValueError: a file is damaged, cut off or edited: ids, coins or salt are not those of the
            manifest.
    """
    manifest = read_manifest(folder)
    path = Path(folder) / COINS_FILE
    fields = _read_json(path)
    try:
        coins = Coins.from_dict(fields)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} does not hold coins. {_ADVICE}") from None
    if coins.ids != manifest.ids:
        raise ValueError(f"{path} has other ids than the manifest. {_ADVICE}")
    is_same_design = (coins.probability_out, coins.fixed_seed) == (
        manifest.probability_out,
        manifest.fixed_seed,
    )
    if coins.commitment() != manifest.coins_commitment or not is_same_design:
        raise ValueError(f"{path} has other coins than the manifest fixed. {_ADVICE}")
    return coins


def read_canaries(folder: str | Path) -> Canaries:
    """Reads the canaries, which tells nothing about the coins.

    Args:
        folder: the one given to `seal`.

    Raises:
        FileNotFoundError: the manifest or the canaries are missing.
        ValueError: the audit has no canaries, or a file is damaged, cut off or edited.
    """
    manifest = read_manifest(folder)
    if manifest.records_commitment is None:
        raise ValueError(f"{folder} has no canaries: its coins were sealed without records")
    path = Path(folder) / RECORDS_FILE
    fields = _read_json(path)
    try:
        canaries = Canaries.from_dict(fields["canaries"])
        digest = commitment(canaries.to_dict(), bytes.fromhex(fields["salt"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} does not hold canaries. {_ADVICE}") from None
    if digest != manifest.records_commitment or canaries.ids != manifest.ids:
        raise ValueError(f"{path} has other canaries than the manifest fixed. {_ADVICE}")
    return canaries


_ADVICE = "Put a copy of the folder back, or start the audit afresh in a new one"


def _check_same(folder: Path, manifest: Manifest) -> None:
    if read_manifest(folder) != manifest:
        raise FileExistsError(
            f"{folder} holds another audit, whose coins are flipped already. Name a new folder"
        )
    open_coins(folder)
    if manifest.records_commitment is not None:
        read_canaries(folder)


def _write_private(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, allow_nan=False) + "\n", mode=0o600)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        # The error would quote what the file holds.
        raise ValueError(f"{path} is damaged or cut off. {_ADVICE}") from None
