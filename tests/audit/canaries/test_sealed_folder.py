"""The folder of an audit: what is public, what is private, and that nothing can be changed."""

import json
import stat

import pytest

from dpjax.audit.canaries.coins import Coins, flip_coins, hold_out
from dpjax.audit.canaries.makers.base import Canaries, number_ids
from dpjax.audit.canaries.manifest import Manifest
from dpjax.audit.canaries.sealed_folder import open_coins, read_canaries, read_manifest, seal
from dpjax.audit.canaries.sealing import SALT_BYTES, canonical, commitment
from dpjax.data import Completions, Conversations, Records, Texts
from dpjax.privatize import RunKey

KEY = RunKey.from_seed(3)
IDS = number_ids("random-tokens", 6)
TEXTS = [f"pangolin {number}" for number in range(6)]
FILES = ["manifest.json", "private/coins.json", "private/canaries.json"]


def make_canaries(records=None):
    records = records or Texts(TEXTS)
    return Canaries(kind="random-tokens", ids=IDS, records=records, secrets=tuple(TEXTS))


@pytest.fixture
def folder(tmp_path):
    seal(tmp_path / "audit", flip_coins(IDS, run_key=KEY), run_key=KEY, canaries=make_canaries())
    return tmp_path / "audit"


def test_what_is_sealed_is_opened_again(folder):
    coins, manifest = open_coins(folder), read_manifest(folder)
    assert coins.ids == IDS and (coins.included == flip_coins(IDS, run_key=KEY).included).all()
    assert set(coins.members) | set(coins.controls) == set(IDS)
    assert manifest.kind == "random-tokens" and manifest.is_fair and manifest.fixed_seed
    assert read_canaries(folder).records == Texts(TEXTS)


def test_the_manifest_shows_neither_coins_nor_texts(folder):
    text = (folder / "manifest.json").read_text()
    fields = json.loads(text)
    assert "pangolin" not in text and "true" not in text.replace('"fixed_seed": true', "")
    assert open_coins(folder).salt.hex() not in text
    assert KEY.audit_bytes("salt/canaries", SALT_BYTES).hex() not in text
    assert fields["num"] == 6 and fields["design"] == "fair-coins" and fields["schema_version"] == 1
    assert fields["sha256"] == read_manifest(folder).sha256


def test_only_the_owner_reads_coins_and_texts(folder):
    assert stat.S_IMODE((folder / "private").stat().st_mode) == 0o700
    for name in FILES[1:]:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.rglob("*.*")) == [
        "canaries.json",
        "coins.json",
        "manifest.json",
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_file_cut_off_is_refused(folder, name, share):
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[: int(share * (len(data) - 2))])
    with pytest.raises(ValueError, match="damaged or cut off"):
        read_canaries(folder)
        open_coins(folder)


def test_every_flipped_byte_is_found(folder):
    """Of any file: one bit of each byte, one byte at a time."""
    for name in FILES:
        path = folder / name
        data = path.read_bytes()
        for place in range(0, len(data), 7):
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            try:
                same = json.loads(changed) == json.loads(data)
            except ValueError:
                same = False
            if not same:
                with pytest.raises(ValueError, match=r"as it was written|does not|has other|damag"):
                    read_canaries(folder)
                    open_coins(folder)
        path.write_bytes(data)


def test_coins_that_were_turned_are_refused(folder):
    path = folder / "private" / "coins.json"
    fields = json.loads(path.read_text())
    fields["included"][0] = not fields["included"][0]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="other coins than the manifest fixed"):
        open_coins(folder)


def test_coins_in_another_order_are_refused(folder):
    path = folder / "private" / "coins.json"
    fields = json.loads(path.read_text())
    fields["ids"].reverse()
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="other ids than the manifest"):
        open_coins(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"probability_out": 0.25},
        {"kind": "new-token"},
        {"num": 5},
        {"design": "coins"},
        {"extra": 1},
        {"schema_version": 2},
        {"ids": [*IDS[:-1], "z"]},
        {"coins": {"commitment": "0" * 64, "file": "private/coins.json"}},
        {"coins": {"commitment": "x", "file": "private/coins.json"}},
        {"records": None},
        {"fixed_seed": 1},
    ],
)
def test_an_edited_manifest_is_refused(folder, change):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="is not as it was written"):
        read_manifest(folder)


def test_a_manifest_that_lacks_a_field_is_refused(folder):
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    for name in fields:
        path.write_text(json.dumps({key: fields[key] for key in fields if key != name}))
        with pytest.raises(ValueError, match=f"{name} (is missing|must be)"):
            read_manifest(folder)


def test_a_manifest_with_a_new_hash_still_does_not_fit_the_coins(folder):
    """Whoever edits ids and hashes again is found by the commitment."""
    manifest = read_manifest(folder)
    ids = (*manifest.ids[:-1], "other")
    forged = Manifest(**(vars(manifest) | {"ids": ids}))
    (folder / "manifest.json").write_text(json.dumps(forged.to_dict()))
    assert read_manifest(folder) == forged
    with pytest.raises(ValueError, match="other ids"):
        open_coins(folder)
    forged = Manifest(**(vars(manifest) | {"probability_out": 0.25}))
    (folder / "manifest.json").write_text(json.dumps(forged.to_dict()))
    with pytest.raises(ValueError, match="other coins"):
        open_coins(folder)


def test_sealing_again_changes_nothing_and_other_coins_are_refused(folder):
    before = {name: (folder / name).read_bytes() for name in FILES}
    seal(folder, flip_coins(IDS, run_key=KEY), run_key=KEY, canaries=make_canaries())
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    other = RunKey.from_seed(4)
    with pytest.raises(FileExistsError, match="flipped already"):
        seal(folder, flip_coins(IDS, run_key=other), run_key=other, canaries=make_canaries())
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_sealing_again_finds_that_the_coins_are_gone(folder):
    (folder / "private" / "coins.json").unlink()
    with pytest.raises(FileNotFoundError):
        seal(folder, flip_coins(IDS, run_key=KEY), run_key=KEY, canaries=make_canaries())


def test_what_a_crash_left_is_written_again(folder):
    """The manifest is written last: without it no audit has begun."""
    (folder / "manifest.json").unlink()
    (folder / "private" / "coins.json").write_text("half")
    seal(folder, flip_coins(IDS, run_key=KEY), run_key=KEY, canaries=make_canaries())
    assert open_coins(folder).ids == read_canaries(folder).ids == IDS


def test_records_held_out_have_the_same_manifest(tmp_path):
    split = hold_out([str(row) for row in range(9)], run_key=KEY, probability_out=0.3)
    manifest = seal(tmp_path, split.coins, run_key=KEY)
    assert read_manifest(tmp_path) == manifest
    assert manifest.kind == "hold-out" and not manifest.is_fair
    assert manifest.to_dict()["design"] == "coins" and manifest.to_dict()["records"] is None
    assert open_coins(tmp_path).controls == split.non_members
    with pytest.raises(ValueError, match="has no canaries"):
        read_canaries(tmp_path)


def test_canaries_and_coins_must_be_the_same(tmp_path):
    with pytest.raises(ValueError, match="the same ids"):
        seal(tmp_path, flip_coins(IDS[:5], run_key=KEY), run_key=KEY, canaries=make_canaries())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "records",
    [
        Completions(["p"] * 6, TEXTS),
        Records(TEXTS, ["a"] * 6),
        Conversations([[{"role": "assistant", "content": text}] for text in TEXTS]),
    ],
)
def test_all_types_of_records_are_sealed(tmp_path, records):
    coins = flip_coins(IDS, run_key=KEY)
    seal(tmp_path, coins, run_key=KEY, canaries=make_canaries(records))
    canaries = read_canaries(tmp_path)
    assert canaries.records == records
    members = canaries.records_at(coins.included)
    assert type(members) is type(records) and len(members) == len(coins.members)


def test_canonical_json_and_commitments():
    assert canonical({"ε": 1.5, "a": [None]}) == '{"a":[null],"\\u03b5":1.5}'
    with pytest.raises(ValueError):
        canonical(float("nan"))
    with pytest.raises(ValueError, match="salt must be 32 bytes"):
        commitment(1, b"short")
    coins = flip_coins(IDS, run_key=KEY)
    assert Coins.from_dict(coins.to_dict()).commitment() == coins.commitment()
