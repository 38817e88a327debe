"""A privacy report as a run writes it, without a run."""

import copy


def make_report(sections):
    """A complete report around what `claim` makes; it verifies."""
    return copy.deepcopy(
        {
            "schema_version": 5,
            "private": True,
            "run": {"id": "a1", "time": "2026-01-02T03:04:05+00:00", "base_model": "m"}
            | {"base_model_revision": None, "trained": "all parameters"},
            **sections,
            "implementation": {
                "target_epsilon": None,
                "delta_is_default": True,
                "clip_norm": 0.5,
                "noise_standard_deviation": 4.0,
                "gradient_divided_by": "expected_batch_size",
                "sampling": "Poisson",
                "gradient_accumulation": "none",
                "adaptive_clipping": None,
                "noise_correlation": None,
            },
            "randomness": {
                "seed_fixed": False,
                "run_key_bits": 256,
                "generators": "Threefry",
                "noise_distribution": "Gaussian",
                "noise_dtype": "float32",
            },
            "trust": {
                "model": "central",
                "trusted_with_records": ["The operator."],
                "released": ["The model."],
                "kept_secret": ["The key."],
            },
            "data_uses": [
                {"use": "Tuning", "status": "not covered", "explanation": "Nobody knows."}
            ],
            "dataset_total": None,
            "assumptions": ["One record is one row."],
            "not_covered": ["The metrics."],
            "warnings": [],
            "versions": {"dpjax": "0.1.0"},
            "environment": {
                "git_commit": None,
                "uncommitted_changes": None,
                "devices": "1 × TPU v5e",
            },
        }
    )
