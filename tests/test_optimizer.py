"""Update rules and learning-rate schedules of the classifiers' recipes, and settings that make no sense."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthaug import checks, experiment, rng
from synthaug.checks.training import optimizer_problems
from synthaug.errors import ConfigError
from synthaug.experiment import Classifier, Optimizer
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import abstract
from synthaug.train.optimizer import build_optimizer, kernels, learning_rate, without_norms
from synthaug.train.state import averaged, create, make_update

DIGITS = pathlib.Path(__file__).parent.parent / "jobs/digits.yaml"


def rates(settings: Optimizer, num_steps: int, *steps: int) -> list[float]:
    rate = learning_rate(settings, num_steps)
    return [float(rate(step)) for step in steps]


def test_step_schedule_is_that_of_cloud_tpu():
    # 90 epochs of 10 steps: a warm-up over 5, then a tenth each after 30, 60 and 80.
    settings = Optimizer(
        kind="sgd", learning_rate=0.4, warmup_share=5 / 90, schedule="step", milestones=(1 / 3, 2 / 3, 8 / 9)
    )
    found = rates(settings, 900, 0, 25, 50, 299, 300, 599, 600, 799, 800, 899)
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.4, 0.04, 0.04, 4e-3, 4e-3, 4e-4, 4e-4], rtol=1e-6)


def test_cosine_goes_from_the_warm_ups_rate_to_the_final_one():
    settings = Optimizer(
        kind="adamw",
        learning_rate=1e-3,
        warmup_steps=10,
        warmup_rate=1e-6,
        schedule="cosine",
        final_rate=1e-5,
    )
    found = rates(settings, 110, 0, 5, 10, 60, 110, 200)
    expected = [1e-6, (1e-6 + 1e-3) / 2, 1e-3, (1e-3 + 1e-5) / 2, 1e-5, 1e-5]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_warm_up_is_a_number_or_a_share_of_steps():
    assert Optimizer(warmup_share=0.1).num_warmup_steps(50) == 5
    assert Optimizer(warmup_steps=7).num_warmup_steps(50) == 7
    assert Optimizer().num_warmup_steps(50) == 0
    share = Optimizer(learning_rate=1.0, warmup_share=0.1)
    assert rates(share, 50, 0, 1, 5, 50) == pytest.approx([0.0, 0.2, 1.0, 1.0])


def test_rates_are_the_same_inside_a_compiled_function():
    settings = Optimizer(learning_rate=0.3, warmup_steps=3, schedule="step", milestones=(0.5,))
    rate = learning_rate(settings, 20)
    steps = jnp.arange(20)
    inside = jax.jit(jax.vmap(rate))(steps)
    np.testing.assert_allclose(inside, [float(rate(int(s))) for s in steps], rtol=1e-6)


def test_sgd_adds_the_gradient_of_the_decay_in_the_loss():
    settings = Optimizer(kind="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01, grad_clip=0)
    plain = dataclasses.replace(settings, weight_decay=0.0)
    start = {
        "kernel": jnp.array([[1.0, -2.0]]),
        "bias": jnp.array([2.0]),
        "norm": {"scale": jnp.array([3.0])},
    }

    def loss(params):
        return sum(jnp.square(leaf - 3.0).sum() for leaf in jax.tree.leaves(params))

    def with_decay(params):
        decaying = jnp.square(params["kernel"]).sum() + jnp.square(params["bias"]).sum()
        return loss(params) + 0.01 / 2 * decaying

    found = []
    for rule, function in ((settings, loss), (plain, with_decay)):
        tx, params = build_optimizer(rule, 10), start
        opt = tx.init(params)
        for _ in range(3):
            updates, opt = tx.update(jax.grad(function)(params), opt, params)
            params = optax.apply_updates(params, updates)
        found.append(params)
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def leaves(kind: str, chosen, **more):
    """Returns {path: decays or not} of a classifier's parameters."""
    settings = Classifier(kind=kind, **more)
    shapes = abstract(build_classifier(settings, resolution=224, channels=3, num_classes=10))["params"]
    found = jax.tree_util.tree_leaves_with_path(chosen(shapes))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): decay for path, decay in found}


@pytest.mark.parametrize("kind", ["resnet50", "resnetrs50", "resnet", "deit_s16"])
def test_decoupled_decay_touches_kernels_only(kind):
    chosen = leaves(kind, kernels)
    for path, decay in chosen.items():
        assert decay == path.endswith("kernel"), path
    assert {path.rpartition("/")[2] for path, decay in chosen.items() if not decay} >= {"bias", "scale"}


def test_decoupled_decay_spares_positions_and_class_tokens():
    chosen = leaves("deit_s16", kernels)
    assert not chosen["positions"] and not chosen["token"] and chosen["head/kernel"]


@pytest.mark.parametrize("kind", ["resnet50", "resnetrs50", "resnet"])
def test_l2_decay_touches_all_that_does_not_belong_to_a_norm(kind):
    """Cloud TPU leaves the variables of batch norms out by their names, and nothing else."""
    chosen = leaves(kind, without_norms)
    assert {path.rpartition("/")[2] for path, decay in chosen.items() if not decay} == {"scale", "bias"}
    for path, decay in chosen.items():
        assert decay == ("norm" not in path), path
    assert chosen["head/bias"] and chosen["head/kernel"]
    assert not any(decay for path, decay in chosen.items() if path.endswith("scale"))
    squeezed = {path: decay for path, decay in chosen.items() if "/squeeze/" in path}
    assert all(squeezed.values()) and bool(squeezed) == (kind == "resnetrs50")


def test_momentum_is_nesterovs_or_the_plain_one():
    gradients = [jnp.array([1.0]), jnp.array([0.5]), jnp.array([-2.0])]
    for nesterov in (True, False):
        tx = build_optimizer(
            Optimizer(kind="sgd", learning_rate=0.1, momentum=0.9, nesterov=nesterov, grad_clip=0), 10
        )
        opt, trace = tx.init({"w": jnp.zeros(1)}), 0.0
        for gradient in gradients:
            update, opt = tx.update({"w": gradient}, opt, {"w": jnp.zeros(1)})
            trace = 0.9 * trace + float(gradient[0])
            expected = float(gradient[0]) + 0.9 * trace if nesterov else trace
            np.testing.assert_allclose(update["w"], [-0.1 * expected], rtol=1e-6)


def test_first_moment_may_be_bf16_and_training_goes_on():
    params = {"kernel": jnp.ones((2, 3))}
    for kind in ("adam", "adamw"):
        tx = build_optimizer(Optimizer(kind=kind, learning_rate=0.1, bf16_moment=True), 10)
        opt = tx.init(params)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(opt) if leaf.ndim == 2}
        assert dtypes == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
        updates, opt = tx.update({"kernel": jnp.full((2, 3), 0.5)}, opt, params)
        np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-2)
        assert updates["kernel"].dtype == jnp.float32


# -------------------------------------------------------------------------- averages of the moments


def test_moments_are_averaged_with_the_weights():
    params, stats = {"w": jnp.ones(2)}, {"mean": jnp.zeros(3), "count": jnp.zeros((), jnp.int32)}

    def loss_fn(params, stats, batch, key):
        moved = {"mean": stats["mean"] + batch, "count": stats["count"] + 1}
        return jnp.square(params["w"]).sum(), ({}, moved)

    tx = build_optimizer(Optimizer(kind="sgd", learning_rate=0.1, grad_clip=0), 10)
    state = create({"params": params, "stats": stats}, tx, with_ema=True)
    update, average = make_update(loss_fn, tx, ema_decay=0.3), 0.0
    for step in range(4):
        state, _ = update(state, jnp.float32(step + 1), rng.root(0))
        keep = min(0.3, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * float(state["stats"]["mean"][0])
    np.testing.assert_allclose(averaged(state)["stats"]["mean"], average, rtol=1e-6)
    assert float(state["stats"]["mean"][0]) == 10.0 and int(averaged(state)["stats"]["count"]) == 4


def test_without_an_average_the_last_moments_count():
    stats = {"mean": jnp.zeros(3)}
    tx = build_optimizer(Optimizer(kind="sgd", learning_rate=0.1), 10)
    state = create({"params": {"w": jnp.ones(2)}, "stats": stats}, tx, with_ema=False)
    assert state["ema_stats"] == {}
    np.testing.assert_array_equal(averaged(state)["stats"]["mean"], stats["mean"])


# ------------------------------------------------------------------------------- senseless settings

SENSELESS = [
    (Optimizer(kind="adam", weight_decay=0.1), r"a\.weight_decay: adam has none; use adamw"),
    (Optimizer(kind="sgd", bf16_moment=True), r"a\.bf16_moment: sgd has no such moment"),
    (Optimizer(warmup_steps=5, warmup_share=0.1), r"two names of one thing; remove one"),
    (Optimizer(warmup_rate=1e-6), r"a\.warmup_rate = 1e-06 without a warm-up"),
    (
        Optimizer(warmup_rate=0.1, warmup_steps=2, learning_rate=0.01),
        r"warmup_rate = 0\.1 exceeds learning_rate = 0\.01",
    ),
    (
        Optimizer(final_rate=0.1, schedule="cosine", learning_rate=0.01),
        r"final_rate = 0\.1 exceeds learning_rate = 0\.01",
    ),
    (Optimizer(final_rate=1e-6), r"final_rate has no meaning with schedule = constant"),
    (
        Optimizer(schedule="cosine", warmup_steps=100),
        r"warmup_steps = 100; expected fewer than the 100 steps",
    ),
    (
        Optimizer(schedule="cosine", warmup_share=0.996),
        r"a\.warmup_share = 0\.996 is 100 steps; expected fewer than the 100 steps",
    ),
    (
        Optimizer(schedule="cosine", warmup_share=1.0),
        r"a\.warmup_share = 1 is 100 steps; expected fewer than the 100 steps",
    ),
    (Optimizer(schedule="step"), r"milestones = \[\] with schedule = step; expected some"),
    (Optimizer(milestones=(0.5,)), r"milestones = \[0\.5\] with schedule = constant"),
    (Optimizer(schedule="step", milestones=(0.6, 0.3)), r"expected rising numbers; sort them"),
]


@pytest.mark.parametrize(("settings", "message"), SENSELESS, ids=[m for _, m in SENSELESS])
def test_senseless_settings_are_named(settings, message):
    problems = optimizer_problems("a", settings, 100)
    assert len(problems) == 1
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(problems[0])


def test_a_share_of_one_is_refused_before_the_number_of_steps_is_known():
    (found,) = optimizer_problems("a", Optimizer(schedule="cosine", warmup_share=1.0), 0)
    assert found.startswith("a.warmup_share = 1 leaves nothing after the warm-up")


def test_sensible_settings_have_no_problems():
    for settings in (
        Optimizer(kind="adamw", weight_decay=0.1, bf16_moment=True, schedule="cosine", warmup_steps=10),
        Optimizer(kind="sgd", weight_decay=1e-4, schedule="step", milestones=(0.3, 0.6), warmup_share=0.05),
    ):
        assert optimizer_problems("a", settings, 100) == []


def test_checks_look_at_every_classifier():
    digits = experiment.load(DIGITS)
    name, model = next(iter(digits.classify.models.items()))
    odd = dataclasses.replace(
        model,
        kind="resnet50",
        positions="sincos",
        pool="mean",
        optimizer=Optimizer(kind="sgd", bf16_moment=True),
    )
    classify = dataclasses.replace(digits.classify, models={name: odd})
    found = checks.problems(dataclasses.replace(digits, classify=classify))
    for text in ("optimizer.bf16_moment", "pool has no meaning", "positions has no meaning"):
        assert any(f"classify.models.{name}.{text}" in problem for problem in found), found


def test_build_refuses_a_bf16_moment_that_is_not_there():
    with pytest.raises(ConfigError, match=r"bf16_moment has no meaning with kind = adafactor"):
        build_optimizer(Optimizer(kind="adafactor", bf16_moment=True), 10)
