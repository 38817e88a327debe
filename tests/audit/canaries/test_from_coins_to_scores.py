"""The way of an audit: canaries are made, sealed, trained on or not, scored, and opened."""

import numpy as np

from dpjax import audit
from dpjax.audit.bounds.from_scores import epsilon_from_scores
from dpjax.data import Records, encode_labelled
from dpjax.privatize import RunKey
from tests.support.tiny_tokenizers import make_tokenizer

NAMES = ("bad", "good")


def test_a_model_that_knows_its_records_by_heart_is_caught(tmp_path):
    tokenizer = make_tokenizer(pad_token="<s>")
    run_key = RunKey.from_os_entropy()
    texts = [f"{word} number {row}" for row in range(120) for word in ("film", "play")]
    records = Records(texts, [NAMES[row % 2] for row in range(len(texts))])
    train, held_out = records.split_at(200)
    training = encode_labelled(train, tokenizer, NAMES, 32)

    canaries = audit.make_canaries(
        "mislabelled", 40, run_key=run_key, held_out=held_out, label_names=NAMES
    )
    encoded = audit.encode_canaries(canaries, tokenizer, 32, label_names=NAMES)
    audit.check_canaries(
        canaries,
        encoded,
        training,
        tokenizer,
        claimed_epsilon=8.0,
        delta=1e-5,
        most_share=0.2,
    )
    coins = audit.flip_coins(canaries.ids, run_key=run_key)
    manifest = audit.seal(tmp_path, coins, run_key=run_key, canaries=canaries)
    assert not manifest.fixed_seed and manifest.is_fair

    whole = audit.append_canaries(training, encoded, coins.included)
    assert len(whole) == 200 + len(coins.members)
    known = {row.tobytes() for row in np.column_stack([whole.input_ids, whole.labels])}

    asked = audit.read_canaries(tmp_path)
    rows = audit.encode_canaries(asked, tokenizer, 32, label_names=NAMES)
    heard = np.column_stack([rows.input_ids, rows.labels])
    scores = {
        name: float(row.tobytes() in known) for name, row in zip(asked.ids, heard, strict=True)
    }
    values = audit.order_scores(audit.read_manifest(tmp_path).ids, scores)
    opened = audit.open_coins(tmp_path)
    assert (values == opened.included).all()
    assert epsilon_from_scores(values, opened.included, delta=1e-5).epsilon > 1
