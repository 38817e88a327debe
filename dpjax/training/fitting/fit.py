"""`fit`: private training of any JAX model on records that lie in memory."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from dpjax_accounting import BandedDPSGD, EpsilonBySteps, Mechanism, default_delta

from dpjax.basics.typing import PyTree
from dpjax.privatize import (
    ClippingRule,
    NoiseStrategy,
    PoissonSampler,
    RunKey,
    check_device_memory,
    num_steps_of,
)
from dpjax.training.devices.hosts import check_agreement
from dpjax.training.devices.layout import Layout, Rule
from dpjax.training.devices.mesh import choose_mesh, describe_mesh
from dpjax.training.fitting.auditing.fit_audit import FitAudit
from dpjax.training.fitting.checks import (
    check_owners,
    checked_delta,
    checked_mechanism,
    checked_params,
    checked_rule,
    checked_run_key,
    count_drawn,
    mean_batch_size,
)
from dpjax.training.fitting.correlated import STRATEGY, default_strategy, describe_strategy
from dpjax.training.fitting.microbatch_size import (
    MicrobatchSize,
    check_microbatch_size,
    find_size,
    planned_memory,
    stored_size,
)
from dpjax.training.fitting.no_privacy import NoPrivacy
from dpjax.training.fitting.records import (
    Records,
    check_records,
    count_records,
    take_records,
)
from dpjax.training.fitting.run import Fit
from dpjax.training.fitting.stored.fingerprints import comparable
from dpjax.training.fitting.stored.open_run import FolderOptions, keep_files, open_folder
from dpjax.training.reports.report import describe_claim
from dpjax.training.steps import Loss, NonPrivateTraining, PrivateTraining, TrainingSteps
from dpjax.training.watches.divergence import DivergenceWatch

if TYPE_CHECKING:
    import optax

_ADVICE = "start another one with a lower learning rate"


def fit(
    loss: Callable[..., jax.Array],
    params: PyTree,
    data: PyTree | Records,
    *,
    mechanism: Mechanism | NoPrivacy,
    optimizer: optax.GradientTransformation,
    clip_norm: float | None = None,
    rule: ClippingRule | None = None,
    delta: float | None = None,
    frozen: PyTree = None,
    run_key: RunKey | None = None,
    microbatch_size: MicrobatchSize = 32,
    strategy: str = "auto",
    device_memory: int | None = None,
    noise_strategy: NoiseStrategy | None = None,
    mesh: jax.sharding.Mesh | str | None = None,
    sharding: Rule | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every_seconds: float | None = 60.0,
    checkpoint_every_steps: int | None = None,
    keep_checkpoints: int = 2,
    ledger: str | Path | None = None,
    audit: FitAudit | None = None,
) -> Fit:
    """Sets up DP-SGD of any JAX model: it samples, clips, adds noise once a step, and accounts.

    Each step releases (Σᵢ cᵢ gᵢ + N(0, σ²C²)) / B to the optimizer (Abadi et al. 2016, "Deep
    Learning with Differential Privacy", Algorithm 1). The loop is that of `dpjax.finetune`.

    Args:
        loss: `(params, record) -> scalar` of one record without a batch axis; or
            `(params, record, frozen) -> scalar` if `frozen` is given. Any JAX function: parameters
            of Flax, Equinox or Haiku are pytrees.
        params: a pytree of floating point arrays, copied: yours are not taken over.
        data: n records, a pytree of NumPy or JAX arrays (n, ...); or an object with `len` and
            `take(rows) -> batch`. Record i is unit i of the mechanism. For users with several
            records take `RecordsByOwner`, `unit_loss` and `UserSampledDPSGD`, or `OwnedRecords`
            and `UserLevelDPSGD` (docs/privacy/users.md).
        mechanism: what the accountant counts, which decides sampling and noise: `DPSGD` or another
            mechanism on records (docs/sampling.md); or `NoPrivacy`.
        optimizer: an optax transformation of the private gradient.
        clip_norm: C > 0, the most that one record contributes, in L2 norm.
        rule: instead of `clip_norm`, a clipping rule such as `PerGroupClipping`.
        delta: δ of the guarantee; default: min(1e-5, n^-1.1).
        frozen: a pytree of arrays that the loss reads and nothing trains.
        run_key: the secret of this run; use it in no other. Default: from the operating system.
        microbatch_size: records processed at once. It costs memory and changes results by rounding
            only, ε not at all. "auto" compiles the step and takes what fits into memory; a resumed
            run keeps what it was started with.
        strategy: how clipped sums are computed, as for `clipped_grad`.
        device_memory: bytes of one device, as for `clipped_grad`; a resumed run keeps its number.
        noise_strategy: the strategy matrix of the correlated noise of `BandedDPSGD`, as for
            `private_gradient`.
        mesh: the devices to compute on, such as "data=4,fsdp=2", or a mesh with these axes and
            tensor. Results differ by rounding only, ε not at all. Default: all devices share the
            records, if their number divides the microbatch size; parameters that are spread over
            several devices already stay there.
        sharding: with `mesh`, spreads a parameter, given its dotted path and its shape. Default:
            its largest axis that fits over fsdp.
        output_dir: a folder for the run, which is locked, and survives a crash. It gets
            `privacy.json`, in which steps stand before they are done, `metrics.jsonl`, and at the
            end `params.safetensors` and `privacy.html`. Until then private/ has its key and states.
            Of several processes the first keeps it, and the others write nothing.
        resume: go on with the run in the folder, with bit-equal results on the same hardware; start
            it if it has not used its key. Arguments must be those of its start. Data, parameters,
            mechanism, rule, versions and kinds of devices are compared, and the operations that JAX
            traces loss and update into; for what runs outside JAX, such as callbacks, you vouch. On
            another mesh results are equal up to rounding: a warning says so. A step that was shown
            is not shown with other roundings.
        overwrite: delete an unfinished run in the folder.
        checkpoint_every_seconds: how often the state is stored, in a thread beside training: a
            crash loses no more work than that. None: only by steps.
        checkpoint_every_steps: store the state after so many steps too, if that comes first.
        keep_checkpoints: how many states are kept.
        ledger: the file of what was spent on the data set, charged with all steps before the first
            one. A loop that is left early stays charged with all of them.
        audit: records that fair coins put into training or leave out. After the last step the
            result has a report of what leaks at least, and so has the folder
            (docs/audit/guide.md).

    Returns:
        A run that has done no step yet: `.run()` trains to the end and returns parameters, ε,
        metrics and the privacy report; `for done in run` trains step by step.

    Raises:
        TypeError: an argument has the wrong type, the mechanism is none that `fit` can run, or the
            clip norm is given twice or not at all; or a noise strategy is given without
            `BandedDPSGD`.
        ValueError: the mechanism lacks a number that a run needs, data and mechanism differ in the
            number of records, a number is out of range, parameters are not finite, or the noise
            strategy does not fit the mechanism; or the run cannot be resumed: the message names all
            differences.
        ImportError: noise is correlated, and jax_privacy is not installed.
        FileExistsError, FileNotFoundError: the folder holds something else than what is asked for.
        RunInUse: another process has the folder.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from dpjax_accounting import DPSGD
        >>> from rich.console import Console
        >>> run = fit(
        ...     lambda params, x: jnp.sum((params - x) ** 2),
        ...     jnp.zeros(2),
        ...     np.ones((400, 2), np.float32),
        ...     mechanism=DPSGD(
        ...         num_units=400, expected_batch_size=40, noise_multiplier=1.0, num_steps=20
        ...     ),
        ...     optimizer=optax.sgd(0.1),
        ...     clip_norm=1.0,
        ... )
        >>> for done in run:
        ...     if done.step == 5:
        ...         break
        >>> run
        Fit(step 5 of 20)
        >>> result = run.run(Console(quiet=True))
        >>> round(result.epsilon, 2), result.params.shape
        (3.59, (2,))
    """
    accounted = checked_mechanism(mechanism)
    check_microbatch_size(microbatch_size)
    check_device_memory(device_memory)
    checked = checked_rule(accounted, clip_norm, rule)
    record_loss = _reading_frozen(loss) if frozen is None else loss
    if microbatch_size == "auto":
        microbatch_size = stored_size(output_dir, resume=resume) or find_size(
            record_loss,
            params,
            data,
            mechanism=accounted,
            rule=checked,
            optimizer=optimizer,
            frozen=frozen,
            strategy=strategy,
            device_memory=device_memory,
            noise_strategy=noise_strategy,
            batch_size=mean_batch_size(mechanism),
        )
    layout = _choose_layout(params, mesh, sharding, microbatch_size)
    start = checked_params(params)
    num_units = count_drawn(mechanism)
    check_owners(mechanism, data)
    num_protected = num_units
    if audit is None:
        check_records(data, num_units)
    else:
        # It loads seconds' worth of modules, which an import of dpjax must not.
        from dpjax.training.fitting.auditing.checks import check_audit, check_power

        check_audit(audit, data, mechanism, num_units, ledger)
        # Records that a coin may leave out are protected too.
        num_protected = max(num_units, count_records(data))
    spent, target_delta = None, checked_delta(accounted, num_protected, delta)
    num_steps = mechanism.num_steps if isinstance(mechanism, NoPrivacy) else num_steps_of(mechanism)
    if accounted is not None and target_delta is not None:
        spent = EpsilonBySteps(accounted, target_delta)
        # What the accountant refuses, it refuses before the first step.
        spent.at(num_steps)
        if accounted.releases() is None:
            # Of these it may refuse other δ, which the report has too.
            describe_claim(accounted, target_delta, num_steps=num_steps, steps_completed=num_steps)
    if audit is not None:
        check_power(audit, accounted, target_delta or default_delta(num_protected))
    batch_size = mean_batch_size(mechanism)
    options = FolderOptions(
        output_dir=output_dir,
        resume=resume,
        overwrite=overwrite,
        checkpoint_every_seconds=checkpoint_every_seconds,
        checkpoint_every_steps=checkpoint_every_steps,
        keep_checkpoints=keep_checkpoints,
        ledger=ledger,
    )
    given_key = None if run_key is None else checked_run_key(run_key).fingerprint()
    check_agreement({"folders": output_dir is None, "run keys": given_key})
    opened = open_folder(options, run_key)
    key = checked_run_key(run_key) if opened is None else opened.run_key
    check_agreement(
        {
            "mechanisms": repr(mechanism),
            "clipping": (repr(checked), strategy, microbatch_size, delta, device_memory),
            "noise strategies": repr(noise_strategy),
            "run keys": (key.fingerprint(), key.generator),
            "parameters": (start, frozen),
            "data": comparable(data),
            "meshes": _describe_layout(layout, start),
        }
    )
    device_memory = planned_memory(device_memory, None if opened is None else opened.stored)
    if noise_strategy is None and isinstance(accounted, BandedDPSGD):
        noise_strategy = default_strategy(accounted, None if opened is None else opened.stored)
    if layout is not None:
        start, frozen = layout.place(start), layout.place(frozen)
    slots, present = data, None
    if audit is not None:
        from dpjax.training.fitting.auditing.audit_of_fit import AuditOfFit, flip

        flipped = flip(audit, data, key)
        slots, present = flipped.slots, flipped.present
    steps: TrainingSteps
    if accounted is None or checked is None:
        num_slots = num_units if present is None else len(present)
        sampler = PoissonSampler(num_slots, batch_size / num_units, key, present)
        steps = NonPrivateTraining(
            record_loss,
            optimizer,
            sampler,
            batch_size,
            device_memory=device_memory,
            layout=layout,
        )
        if noise_strategy is not None:
            raise TypeError("NoPrivacy adds no noise: leave out noise_strategy")
    else:
        steps = private = PrivateTraining(
            record_loss,
            optimizer,
            accounted,
            checked,
            key,
            strategy=strategy,
            device_memory=device_memory,
            present=present,
            noise_strategy=noise_strategy,
            layout=layout,
        )
        noise_strategy = private.noise_strategy
    audited = None
    if audit is not None:
        score = audit.score
        if score is not None and frozen is None:
            score = _reading_frozen(score)
        audited = AuditOfFit(
            flipped,
            record_loss,
            score,
            start,
            frozen,
            delta=target_delta,
            batch_size=microbatch_size,
            layout=layout,
        )
    run = Fit(
        mechanism=accounted,
        delta=target_delta,
        delta_is_default=delta is None,
        rule=checked,
        noise_strategy=noise_strategy,
        run_key=key,
        num_steps=num_steps,
        params=start,
        state=optimizer.init(start) if layout is None else layout.init_state(optimizer.init, start),
        frozen=frozen,
        steps=steps,
        microbatch_size=microbatch_size,
        batches=lambda step: _batches(steps, slots, step, microbatch_size, layout),
        spent=spent,
        watch=DivergenceWatch(batch_size, _ADVICE),
        audited=audited,
    )
    if opened is not None:
        keep_files(
            run,
            opened,
            mechanism=mechanism,
            loss=record_loss,
            optimizer=optimizer,
            data=slots,
            settings={
                "microbatch_size": microbatch_size,
                "strategy": strategy,
                "device_memory": device_memory,
                STRATEGY: None if noise_strategy is None else describe_strategy(noise_strategy),
                "mesh": _describe_layout(layout, start),
                "audit": None if audited is None else audited.identity(start),
            },
        )
    return run


def _choose_layout(
    params: PyTree, mesh: jax.sharding.Mesh | str | None, rule: Rule | None, microbatch_size: int
) -> Layout | None:
    """Where the arrays of the run lie; None where the caller has placed them, or on one device."""
    if mesh is None and jax.process_count() == 1:
        if rule is not None:
            raise TypeError("sharding spreads parameters over a mesh: give mesh too")
        leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
        if any(len(leaf.sharding.device_set) > 1 for leaf in leaves):
            return None
    chosen = choose_mesh(mesh, microbatch_size, size_name="microbatch_size")
    if chosen.mesh is None and chosen.notice:
        if jax.process_count() > 1:
            raise ValueError(f"several processes must share all devices, but {chosen.notice}")
        warnings.warn(chosen.notice, stacklevel=3)
    return None if chosen.mesh is None else Layout.make(chosen.mesh, rule)


def _describe_layout(layout: Layout | None, params: PyTree) -> str | None:
    if layout is None:
        leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
        spread = [str(leaf.sharding) for leaf in leaves if len(leaf.sharding.device_set) > 1]
        # Placed by the caller: words for people, and a hash for what they leave out.
        digest = hashlib.sha256("\n".join(spread).encode()).hexdigest()[:8]
        return f"arrays as they were placed ({digest})" if spread else None
    number = jax.process_count()
    return describe_mesh(layout.mesh) + (f" in {number} processes" if number > 1 else "")


def _reading_frozen(loss: Callable[..., jax.Array]) -> Loss:
    """Gives the loss a last argument, which it does not read."""
    return lambda params, record, frozen: loss(params, record)


def _batches(
    steps: TrainingSteps,
    data: PyTree | Records,
    step: int,
    microbatch_size: int,
    layout: Layout | None,
) -> Iterator[tuple[PyTree, np.ndarray]]:
    pieces = steps.batches(step, microbatch_size=microbatch_size, order=lambda rows: rows)
    for rows, mask in pieces:
        if layout is None:
            yield take_records(data, rows), mask
        elif jax.process_count() == 1:
            yield layout.place_rows((take_records(data, rows), mask))
        else:
            own = layout.own_rows(microbatch_size)
            batch = take_records(data, rows[own]), mask[own]
            yield layout.place_own_rows(batch, microbatch_size)
