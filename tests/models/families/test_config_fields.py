"""Every field of config.json, changed: equal logits to transformers, or an error that names it.

The fields are those of transformers' configuration classes and all others that transformers looks
up while it opens and runs a model, so that a new version's new fields are tried too.
"""

import contextlib
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from dpjax.models import load_causal_lm, load_classifier, parse_config
from tests.support.tiny_checkpoints import CONFIGS, DECODERS, auto_class, raw_config

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = np.random.default_rng(0).integers(5, 55, (1, 14)).astype(np.int32)
# What a text's labels are called, how a model is held and run, and what it was made with.
_NOT_COMPUTED = frozenset(
    [
        "model_type",
        "id2label",
        "label2id",
        "problem_type",
        "dtype",
        "torch_dtype",
        "output_hidden_states",
        "return_dict",
        "transformers_version",
        "architectures",
    ]
)
# Spellings of the past, which the classes translate.
_OLD = (
    "rope_scaling",
    "rope_theta",
    "rotary_pct",
    "rotary_emb_base",
    "partial_rotary_factor",
    "sliding_window_pattern",
    "rope_local_base_freq",
    "original_max_position_embeddings",
    "position_embedding_type",
    "num_key_value_heads",
)
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ROPES = [
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    {"type": "linear", "factor": 3.0},
    {"rope_type": "linear", "factor": 3.0, "rope_theta": 300.0, "partial_rotary_factor": 0.5},
    _LLAMA3,
    _LLAMA3 | {"rope_theta": 77.0, "original_max_position_embeddings": 16},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0},
    {
        "full_attention": {"rope_type": "default", "rope_theta": 50.0},
        "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 70.0},
    },
]
_LISTS = {
    "layer_types": [
        ["sliding_attention", "full_attention"],
        ["full_attention"] * 2,
        ["chunked_attention"] * 2,
    ],
    "no_rope_layers": [[0, 1], [0, 0], [1]],
    "mlp_only_layers": [[1]],
    "per_layer_config": [{"0": {"intermediate_size": 32}}],
}
_ACTIVATIONS = ("hidden_act", "activation", "activation_function", "hidden_activation")


def changes_of(name, value):
    """Other values for a field."""
    if name in ("rope_parameters", "rope_scaling"):
        return _ROPES
    if name in _LISTS:
        return _LISTS[name]
    if name in _ACTIVATIONS:
        return ["gelu", "relu", "quick_gelu"]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, 0]
    if isinstance(value, float):
        return [2 * value + 0.1]
    return [True, False, 3] if value is None else []


@contextlib.contextmanager
def recorded():
    """The names of the attributes of configurations that transformers looks up meanwhile."""
    names, original = set(), transformers.PreTrainedConfig.__getattribute__

    def recording(self, name):
        names.add(name)
        return original(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.PreTrainedConfig, "__getattribute__", recording)
        yield names


class Family:
    """Checkpoints of one family in a folder, opened by transformers and by dpjax."""

    def __init__(self, name, folder):
        self.folder = folder
        self.is_decoder = name in DECODERS
        task = "causal_lm" if self.is_decoder else "sequence_classification"
        self.auto = getattr(transformers, auto_class(name, task))

    def write(self, raw):
        (self.folder / "config.json").write_text(json.dumps(raw))

    def make(self, raw):
        """A random model as config.json describes it."""
        self.write(raw)
        config = transformers.AutoConfig.from_pretrained(self.folder)
        torch.manual_seed(0)
        made = self.auto.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        made.save_pretrained(self.folder)
        self.write(raw)

    def logits_of_transformers(self, raw):
        """With the weights in the folder."""
        self.write(raw)
        model = self.auto.from_pretrained(self.folder, dtype=torch.float32)
        with torch.no_grad():
            return model.eval()(torch.tensor(IDS).long()).logits.numpy()

    def logits(self, raw):
        self.write(raw)
        mask = np.ones_like(IDS, bool)
        if self.is_decoder:
            return np.asarray(load_causal_lm(self.folder)(IDS, mask))
        key = jax.random.key(0)
        return np.asarray(load_classifier(self.folder, label_names=("a", "b"), key=key)(IDS, mask))


def computed(config):
    """What of a configuration changes logits."""
    rotary = {"max_positions": 0} if config.rope else {}
    return dataclasses.replace(config, initializer_range=1.0, **{k: 1 for k in rotary})


def assert_close(found, expected, what):
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=2e-5 * scale, rtol=0, err_msg=str(what))


# Where the fields of a configuration are: at the top, or in that of the text model.
TOP, TEXT = (), ("text_config",)


def applied(base, changes):
    """config.json with some fields changed, `{(where, name): value}`."""
    raw = json.loads(json.dumps(base))
    for (where, name), value in changes.items():
        functools.reduce(dict.__getitem__, where, raw)[name] = value
    return raw


def fields_of(hf, looked_up):
    names = {field.name for field in dataclasses.fields(hf)} | looked_up
    names = sorted(n for n in names - _NOT_COMPUTED if not n.startswith("_") or n in vars(hf))
    return [n for n in names if not callable(getattr(type(hf), n, None))]


def all_changes(base, hf, looked_up):
    """Every change of one field."""
    others = looked_up | set(_OLD)
    places = {TOP: fields_of(hf, others)}
    if "text_config" in base:
        names = [n for n in fields_of(hf, set()) if n not in ("text_config", "vision_config")]
        places = {TOP: names, TEXT: fields_of(hf.text_config, others)}
    for where, names in places.items():
        inside = functools.reduce(dict.__getitem__, where, base)
        values_of = hf.text_config if where == TEXT else hf
        for name in names:
            for value in changes_of(name, getattr(values_of, name, None)):
                if name not in inside or inside[name] != value:
                    yield {(where, name): value}


@pytest.mark.parametrize("family", CONFIGS)
def test_each_field_is_followed_or_refused(family, tmp_path):
    own, base = Family(family, tmp_path), raw_config(family)
    with recorded() as looked_up:
        own.make(base)
        expected = own.logits_of_transformers(base)
    assert_close(own.logits(base), expected, "unchanged")
    hf = transformers.AutoConfig.from_pretrained(tmp_path)
    unchanged, followed = [], []
    for change in all_changes(base, hf, looked_up):
        ((_, name),) = change
        try:
            parsed = parse_config(applied(base, change))
        except ValueError as error:
            named = name in str(error)
            assert named or not opens(own, applied(base, change)), (change, str(error))
            continue
        same = computed(parsed) == computed(parse_config(base))
        (unchanged if same else followed).append(change)
    assert len(unchanged) > 5
    assert len(followed) > 5
    # Those of one field apart, so that many can be tried together.
    unchanged.sort(key=lambda change: str(*change.values()))
    check_unchanged(own, base, unchanged, expected)
    for change in followed:
        check_followed(own, applied(base, change), change)


def check_unchanged(own, base, changes, expected):
    """Changes that dpjax takes for none are none: all at once if that can be, else in halves."""
    together = functools.reduce(lambda all, one: one | all, changes, {})
    try:
        found = own.logits_of_transformers(applied(base, together))
    except Exception:
        # Of many types, for values that make no sense.
        found = None
    if len(changes) == 1 or (found is not None and len(together) == len(changes)):
        if found is not None:
            assert_close(found, expected, together)
        return
    middle = len(changes) // 2
    check_unchanged(own, base, changes[:middle], expected)
    check_unchanged(own, base, changes[middle:], expected)


def opens(own, raw):
    """Whether transformers can use a configuration with the weights in the folder."""
    try:
        own.logits_of_transformers(raw)
    except Exception:
        # Of many types, for values that make no sense.
        return False
    return True


def check_followed(own, raw, change):
    try:
        own.make(raw)
        expected = own.logits_of_transformers(raw)
    except Exception:
        # transformers refuses it.
        return
    try:
        found = own.logits(raw)
    except ValueError as error:
        ((_, name),) = change
        assert name in str(error), (change, str(error))
        return
    assert_close(found, expected, change)
