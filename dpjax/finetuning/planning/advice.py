"""A forecast in sentences: what to change, and why."""

from __future__ import annotations

from collections.abc import Iterator

from dpjax.finetuning.planning.forecast import Forecast, ModelForecast
from dpjax.finetuning.planning.noise import FLAT, CorrelatedSums, NoiseChoice
from dpjax.training import in_words

# Where no model is given: a head of a few labels has about as many.
_FEW_PARAMETERS = 1000


def advise(forecast: Forecast) -> tuple[str, ...]:
    """Returns sentences on batch size, number of records and memory."""
    return tuple((*_on_noise(forecast), *_on_memory(forecast.model)))


def _on_noise(forecast: Forecast) -> Iterator[str]:
    if forecast.correlated is not None:
        yield _on_correlation(forecast.correlated)
    asked, full = forecast.asked, forecast.full_batch
    if asked is None or full is None:
        return
    if forecast.flat_from is not None:
        yield _on_batch_size(asked, full, forecast.flat_from)
    num_trained = _FEW_PARAMETERS if forecast.model is None else forecast.model.num_trained
    said = f"{num_trained:,} parameters are trained"
    if forecast.model is None:
        said = f"only {said}"
    best = full.relative_noise_of_run(num_trained)
    here = asked.relative_noise_of_run(num_trained)
    if best > 1:
        yield (
            f"{forecast.num_units} records are too few for ε = {asked.epsilon:.3g} where {said}: "
            f"even with all records in each step, the noise of all steps adds up to {best:.3g} "
            "times what the gradients could, if all of them pointed the same way. Take a larger ε, "
            "more records, or train fewer parameters (tuning=head, a lower lora.rank)."
        )
    elif here > 1:
        yield (
            f"Where {said}, the noise of all steps adds up to {here:.3g} times what the gradients "
            "could, if all of them pointed the same way. A larger batch or more steps lower it to "
            f"{best:.3g} at best."
        )


def _on_correlation(sums: CorrelatedSums) -> str:
    said = (
        "Noise is correlated over steps: σ is that of the draws. On sums of steps (root mean "
        f"square) there is {sums.relative:.3g} times the noise of independent draws with this σ."
    )
    if sums.independent is None or sums.relative_to_independent is None:
        return said
    if sums.relative_to_independent < 1:
        advice = "it pays where sums of steps count, as with sgd."
    else:
        advice = "leave out privacy.noise, or take another number of bands."
    return (
        f"{said} Independent noise with this ε has σ = {sums.independent:.4g}: correlated noise is "
        f"{sums.relative_to_independent:.3g} times that on sums; {advice}"
    )


def _on_batch_size(asked: NoiseChoice, full: NoiseChoice, flat: int) -> str:
    size, ratio = asked.expected_batch_size, asked.relative_noise / full.relative_noise
    found = (
        f"At {asked.num_steps} steps noise hardly falls beyond a batch of about {flat}: there it "
        f"is {FLAT:g} times that of the full batch."
    )
    if ratio > FLAT:
        return (
            f"{found} With {size} it is {ratio:.3g} times that: a larger batch has less noise at "
            "the same ε, and takes more time."
        )
    return f"{found} With {size} it is {ratio:.3g} times that: a larger batch gains little."


def _on_memory(model: ModelForecast | None) -> Iterator[str]:
    if model is None:
        return
    yield from (f"{sentence}." for sentence in model.choices)
    peak, limit = model.memory.peak, model.limit
    if limit is not None and peak > limit:
        yield (
            f"A step does not fit: it needs {in_words(peak)}, and {in_words(limit)} may be used. "
            "Give training.microbatch_size=auto, lower training.max_length, or set "
            "compute.rematerialise."
        )
