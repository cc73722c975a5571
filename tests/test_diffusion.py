"""Schedules, predictions, the loss, guidance and the low-resolution input."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from synthaug import rng
from synthaug.diffusion import cascade, guidance, loss, prediction, schedule
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion

KEY = rng.root(0)
CONTINUOUS = [Diffusion(schedule=name, num_timesteps=0) for name in ("cosine", "linear")]
DISCRETE = [Diffusion(schedule=name, num_timesteps=n) for name in ("cosine", "linear") for n in (30, 1000)]
LEARNED = Diffusion(schedule="cosine", num_timesteps=1000, learned_variance=True)


train_loss = jax.jit(loss.diffusion_loss, static_argnums=(0, 1))
draw_times = jax.jit(schedule.draw_times, static_argnums=(0, 2))
logsnr_at = jax.jit(schedule.logsnr, static_argnums=0)
vlb_terms = jax.jit(loss.vlb_terms, static_argnums=0)
augment_all = jax.jit(cascade.augment_low_res, static_argnums=2)


def augment(low_res, level, keys):
    return augment_all(low_res, level, "continuous", keys)[0]


def noise(name: str, *shape: int) -> jax.Array:
    draws = np.random.default_rng(list(name.encode()))  # numpy: jax would compile once per shape
    return jnp.asarray(draws.standard_normal(shape), jnp.float32)


# ----------------------------------------------------------------------------------------- schedule


def test_cosine_logsnr_is_that_of_the_cosine_squared():
    t = np.linspace(0, 0.999, 50)
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    found = logsnr_at(CONTINUOUS[0], jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(found, -np.log(1 / alpha_bar - 1), rtol=1e-4, atol=1e-5)


def test_linear_logsnr_is_close_to_ddpms_betas_in_continuous_time():
    table = logsnr_at(DISCRETE[3], jnp.arange(1000))
    t = (jnp.arange(1000, dtype=jnp.float32) + 1) / 1000
    np.testing.assert_allclose(logsnr_at(CONTINUOUS[1], t)[50:], table[50:], atol=0.16)


@pytest.mark.parametrize("process", CONTINUOUS + DISCRETE, ids=str)
def test_logsnr_is_finite_limited_and_falls_with_time(process):
    n = process.num_timesteps
    t = jnp.arange(n) if n else jnp.linspace(0, 1, 1001)
    ratios = np.asarray(logsnr_at(process, t))
    assert np.all(np.isfinite(ratios)) and np.all(np.abs(ratios) <= 20)
    assert np.all(np.diff(ratios) < 0)


@pytest.mark.parametrize("process", DISCRETE, ids=str)
def test_discrete_table_equals_an_independent_product_of_betas(process):
    """As diffusers multiplies them: 1 - beta in float32, the product in float64, its result in float32."""
    n, kept, expected = process.num_timesteps, 1.0, []
    for i in range(n):
        if process.schedule == "cosine":
            now, before = (math.cos((t / n + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (i + 1, i))
            beta = 1 - now / before
        else:
            beta = 1000 / n * (1e-4 + (0.02 - 1e-4) * i / (n - 1))
        kept *= float(np.float32(1) - np.float32(min(beta, 0.999)))
        rounded = float(np.float32(kept))
        expected.append(math.log(rounded / (1 - rounded)))
    found = logsnr_at(process, jnp.arange(n))
    np.testing.assert_allclose(found, np.clip(expected, -20, 20), rtol=1e-5, atol=1e-6)


def test_ddpms_linear_grid_ends_at_its_published_signal():
    alpha, _ = schedule.signal_noise(logsnr_at(DISCRETE[3], jnp.array(999)))
    assert float(alpha) == pytest.approx(math.sqrt(4.0358e-5), rel=1e-4)


def test_signal_and_noise_keep_their_precision_at_both_limits():
    for value in (-20.0, -3.0, 0.0, 7.0, 20.0):
        alpha, sigma = schedule.signal_noise(jnp.float32(value))
        assert float(alpha) == pytest.approx(math.sqrt(1 / (1 + math.exp(-value))), rel=1e-5)
        assert float(sigma) == pytest.approx(math.sqrt(1 / (1 + math.exp(value))), rel=1e-5)


@pytest.mark.parametrize("process", CONTINUOUS + DISCRETE, ids=str)
def test_step_grid_runs_from_noise_to_the_clean_image(process):
    grid = schedule.step_grid(process, 10)
    last = process.num_timesteps - 1 if process.num_timesteps else 1000
    assert grid.time[0] == last
    assert np.all(np.diff(grid.time) < 0) and np.ptp(np.diff(grid.time)) < 1e-3
    np.testing.assert_array_equal(grid.logsnr_s[:-1], grid.logsnr_t[1:])
    assert np.all(np.asarray(grid.logsnr_s) > np.asarray(grid.logsnr_t)) and np.isposinf(grid.logsnr_s[-1])


@pytest.mark.parametrize("steps", [1, 3, 7, 27, 999, 1000])
def test_any_number_of_steps_gives_as_many_different_timesteps(steps):
    time = np.asarray(schedule.step_grid(LEARNED, steps).time)
    assert len(set(time)) == steps and time[0] == 999 and time[-1] >= 0
    assert steps == 1 or np.ptp(np.diff(time)) <= 1


def test_step_grid_takes_an_explicit_subset():
    grid = schedule.step_grid(LEARNED, 3, subset=[0, 997, 20])
    assert grid.time.tolist() == [997, 20, 0]
    np.testing.assert_array_equal(grid.logsnr_t, logsnr_at(LEARNED, jnp.array([997, 20, 0])))


@pytest.mark.parametrize("subset", [[0, 997], [0, 0, 5], [0, 5, 1000], [-1, 5, 6]])
def test_step_grid_refuses_a_subset_that_is_none(subset):
    with pytest.raises(ConfigError, match=r"expected num_sampling_steps = 3 different timesteps in 0\.\.999"):
        schedule.step_grid(LEARNED, 3, subset=subset)


def test_a_linear_grid_too_short_for_its_betas_is_refused():
    with pytest.raises(
        ConfigError, match=r"num_timesteps = 8 is too few .* beta would reach 2\.5; .* use 21"
    ):
        logsnr_at(Diffusion(schedule="linear", num_timesteps=8), jnp.array(0))
    assert np.all(np.diff(schedule.logsnr_table(Diffusion(schedule="linear", num_timesteps=21))) < 0)


@pytest.mark.parametrize(
    ("process", "subset", "start", "fractions"),
    [
        (CONTINUOUS[0], None, 0.3, [0.3, 0.2, 0.1]),
        (LEARNED, None, 0.35, [0.3, 0.2, 0.1]),
        (LEARNED, tuple(range(99, 1000, 100)), 0.3, [0.3, 0.2, 0.1]),
        (LEARNED, None, 1.0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    ],
)
def test_a_grid_from_the_middle_is_the_rest_of_the_whole_one(process, subset, start, fractions):
    whole, rest = (schedule.step_grid(process, 10, subset, s) for s in (1.0, start))
    np.testing.assert_allclose(rest.fraction, fractions, rtol=1e-6)
    for a, b in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(a[len(a) - len(b) :], b)


def test_a_grid_that_would_be_empty_is_refused():
    with pytest.raises(ConfigError, match=r"start = 0.05 is before the last of 10 steps, at 0.1"):
        schedule.step_grid(CONTINUOUS[0], 10, start=0.05)


def test_step_grid_refuses_more_steps_than_timesteps_and_subsets_of_continuous_time():
    with pytest.raises(ConfigError, match="num_sampling_steps = 31 exceeds num_timesteps = 30"):
        schedule.step_grid(DISCRETE[0], 31)
    with pytest.raises(ConfigError, match="continuous"):
        schedule.step_grid(CONTINUOUS[0], 2, subset=[1, 2])


@pytest.mark.parametrize("process", CONTINUOUS + DISCRETE, ids=str)
def test_training_times_cover_time_evenly_and_step_one_back(process):
    times = draw_times(process, rng.at(KEY, 7), 64)
    fraction = np.sort(times.fraction)
    assert np.all((fraction >= 0) & (fraction < 1))
    np.testing.assert_allclose(np.diff(fraction), 1 / 64, atol=1e-6)
    if process.num_timesteps:
        t = np.floor(np.asarray(times.fraction) * process.num_timesteps).astype(int)
        np.testing.assert_array_equal(times.time, t)
        before = np.where(t == 0, np.inf, logsnr_at(process, jnp.maximum(t - 1, 0)))
    else:
        t = np.asarray(times.fraction)
        before = np.where(t < 1e-3, np.inf, logsnr_at(process, jnp.maximum(t - np.float32(1e-3), 0)))
    np.testing.assert_allclose(times.logsnr_s, before, atol=1e-4)
    np.testing.assert_allclose(times.logsnr_t, logsnr_at(process, t), atol=1e-4)


def test_the_first_training_time_differs_from_key_to_key():
    first = [float(draw_times(LEARNED, rng.at(KEY, n), 4).fraction[0]) for n in range(200)]
    assert len(set(first)) == 200
    assert abs(np.mean(first) - 0.5) < 5 / math.sqrt(12 * 200)


# --------------------------------------------------------------------------------------- prediction

logsnrs = strategies.floats(-20, 20, width=32)
kinds = strategies.sampled_from(["eps", "v", "x"])


@given(kind=kinds, logsnr=logsnrs, seed=strategies.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=150)
def test_x_and_eps_come_back_from_every_target_at_every_logsnr(kind, logsnr, seed):
    keys = [rng.stream(rng.root(seed), name) for name in ("x", "eps")]
    x = jax.random.uniform(keys[0], (2, 3, 3, 1), minval=-1, maxval=1)
    eps = jax.random.normal(keys[1], x.shape)
    ratio = jnp.float32(logsnr)
    alpha, sigma = (float(a) for a in schedule.signal_noise(ratio))
    z_t = prediction.diffuse(x, eps, ratio)
    output = prediction.target(kind, x, eps, ratio)
    # z_t has 24 bits; eps -> x divides their rounding by alpha, x -> eps by sigma
    np.testing.assert_allclose(prediction.to_x(kind, z_t, ratio, output), x, atol=2e-6 / alpha)
    np.testing.assert_allclose(prediction.to_eps(kind, z_t, ratio, output), eps, atol=2e-6 / sigma)


@given(kind=kinds, logsnr=strategies.floats(-8, 8, width=32))
@settings(deadline=None, max_examples=60)
def test_the_target_of_what_an_output_implies_is_the_output(kind, logsnr):
    z_t, output, ratio = noise("z", 2, 3, 3, 1), noise("out", 2, 3, 3, 1), jnp.float32(logsnr)
    x = prediction.to_x(kind, z_t, ratio, output)
    eps = prediction.to_eps(kind, z_t, ratio, output)
    np.testing.assert_allclose(prediction.diffuse(x, eps, ratio), z_t, atol=1e-4)
    np.testing.assert_allclose(prediction.target(kind, x, eps, ratio), output, atol=5e-4)


def test_an_unknown_prediction_is_refused():
    image = jnp.zeros((1, 1, 1, 1))
    for function in (prediction.target, prediction.to_x, prediction.to_eps):
        with pytest.raises(ConfigError, match="'score'; expected eps, v or x"):
            function("score", image, jnp.float32(0), image)


def test_posterior_is_that_of_two_gaussians_by_bayes():
    """q(z_s | z_t, x) ~ q(z_t | z_s) q(z_s | x), both known; completing the square gives the rest."""
    logsnr_t, logsnr_s, x, z_t = -1.0, 0.7, 0.3, -0.8
    (a_t, s_t), (a_s, s_s) = ((math.sqrt(1 / (1 + math.exp(-r))), math.sqrt(1 / (1 + math.exp(r))))
                              for r in (logsnr_t, logsnr_s))  # fmt: skip
    gain = a_t / a_s
    beta = s_t**2 - gain**2 * s_s**2
    variance = 1 / (gain**2 / beta + 1 / s_s**2)
    mean = variance * (gain * z_t / beta + a_s * x / s_s**2)
    ratios = jnp.float32(logsnr_t), jnp.float32(logsnr_s)
    image = jnp.ones((1, 1, 1, 1))
    found = prediction.posterior_mean(z_t * image, x * image, *ratios)
    assert float(found[0, 0, 0, 0]) == pytest.approx(mean, rel=1e-5)
    lower, upper = prediction.logvar_bounds(*ratios)
    assert math.exp(lower) == pytest.approx(variance, rel=1e-5)
    assert math.exp(upper) == pytest.approx(beta, rel=1e-5)


# --------------------------------------------------------------------------------------------- loss


@functools.cache  # one function object per process, so that jit compiles once
def gaussian_network(process: Diffusion, variance: float):
    """Returns the exact denoiser, mean and variance, of images whose pixels are N(0, variance)."""

    def denoise(z_t, time, cond):
        time = time[:, None, None, None]
        t = time.astype(jnp.int32) if process.num_timesteps else time / 1000
        s = jnp.maximum(t - 1, 0) if process.num_timesteps else jnp.maximum(t - 1 / 1000, 0)
        logsnr_t, logsnr_s = schedule.logsnr(process, t), schedule.logsnr(process, s)
        (alpha, sigma), (alpha_s, _) = schedule.signal_noise(logsnr_t), schedule.signal_noise(logsnr_s)
        total = alpha**2 * variance + sigma**2
        x = alpha * variance / total * z_t
        output = prediction.target(process.prediction, x, (z_t - alpha * x) / sigma, logsnr_t)
        lower, upper = prediction.logvar_bounds(logsnr_t, logsnr_s)
        of_x = jnp.expm1(logsnr_t - logsnr_s) ** 2 * alpha_s**2 * variance * sigma**2 / total
        fraction = (jnp.log(jnp.exp(lower) + of_x) - lower) / (upper - lower)
        fraction = jnp.where(
            time < 1, 1.0, fraction
        )  # s is clean: beta is all but the variance of p(x | z_t)
        return jnp.concatenate([output, 2 * fraction - 1 + 0 * output], axis=-1)

    return denoise


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_mse_of_the_exact_denoiser_is_the_conditional_variance(kind):
    process = Diffusion(prediction=kind)
    x = 0.5 * noise("x", 4096, 6, 6, 1)
    network = gaussian_network(process, 0.25)
    value, metrics = train_loss(network, process, x, None, KEY)
    t = np.linspace(0, 1, 20001)[1:-1]
    alpha2 = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    var_x = 0.25 * (1 - alpha2) / (alpha2 * 0.25 + 1 - alpha2)
    weight = {"eps": alpha2 / (1 - alpha2), "v": 1 / (1 - alpha2)}[kind]
    expected = weight * var_x
    assert float(value) == float(metrics["mse"]) == pytest.approx(expected.mean(), rel=0.05)
    for quarter, part in enumerate(np.array_split(expected, 4)):
        assert float(metrics[f"mse_q{quarter}"]) == pytest.approx(part.mean(), rel=0.05)


def test_metrics_are_finite_where_a_quarter_of_time_has_no_example():
    x = noise("x", 2, 2, 2, 1)
    _, metrics = train_loss(gaussian_network(LEARNED, 1.0), LEARNED, x, None, KEY)
    assert set(metrics) == {"mse", "vlb", "mse_q0", "mse_q1", "mse_q2", "mse_q3"}
    assert all(np.isfinite(v) and v.shape == () and v.dtype == jnp.float32 for v in metrics.values())
    assert [float(metrics[f"mse_q{q}"]) > 0 for q in range(4)].count(False) == 2


def test_the_loss_is_a_function_of_the_key_alone():
    x, network = noise("x", 2, 2, 2, 1), gaussian_network(LEARNED, 1.0)
    first, again, other = (train_loss(network, LEARNED, x, None, k)[0] for k in (KEY, KEY, rng.at(KEY, 1)))
    assert first == again != other


@pytest.mark.parametrize("kind", ["eps", "v", "x"])
def test_kl_is_zero_for_the_exact_posterior_and_positive_for_any_other(kind):
    process = dataclasses.replace(LEARNED, prediction=kind)
    t = jnp.array([1, 2, 30, 500, 998, 999])
    logsnr_t, logsnr_s = schedule.logsnr(process, t), schedule.logsnr(process, t - 1)
    x, eps = jnp.tanh(noise("x", 6, 3, 3, 2)), noise("eps", 6, 3, 3, 2)
    wide = logsnr_t[:, None, None, None]
    z_t = prediction.diffuse(x, eps, wide)
    target = prediction.target(kind, x, eps, wide)
    posterior = jnp.concatenate([target, -jnp.ones_like(target)], axis=-1)
    np.testing.assert_allclose(
        vlb_terms(process, x, z_t, logsnr_t, logsnr_s, posterior), jnp.zeros(6), atol=1e-5
    )
    # towards full noise both variances agree and x hardly matters, so only the cleaner times can tell
    for wrong in (posterior + 0.1, posterior.at[..., :2].add(0.1), posterior.at[..., 2:].add(1.0)):
        assert np.all(vlb_terms(process, x, z_t, logsnr_t, logsnr_s, wrong)[:3] > 1e-4)


def test_kl_of_two_gaussians_equals_the_textbook():
    found = loss.gaussian_kl(*(jnp.float32(v) for v in (0.0, 0.0, 1.0, math.log(4))))
    assert float(found) == pytest.approx(math.log(2) + 2 / 8 - 1 / 2, rel=1e-6)


@pytest.mark.parametrize("mean", [-1.05, -0.2, 0.1234, 1.3])
@pytest.mark.parametrize("std", [0.003, 0.02, 0.5, 3.0])
def test_bin_masses_of_the_discretised_gaussian_sum_to_one(mean, std):
    values = jnp.arange(256, dtype=jnp.float32) / 127.5 - 1
    nll = loss.discretised_nll(values, jnp.float32(mean), jnp.float32(2 * math.log(std)))
    assert float(jnp.sum(jnp.exp(-nll))) == pytest.approx(1, abs=1e-5)
    assert np.all(np.isfinite(nll))


@pytest.mark.parametrize(("name", "num_timesteps"), [("cosine", 0), ("linear", 50)])
def test_vlb_of_the_exact_denoiser_is_the_entropy_of_the_data(name, num_timesteps):
    """The bound is tight for Gaussians: 8-bit pixels of N(0, s²) take log2(127.5 s sqrt(2 pi e)) bits.

    The first step has the most spread: -log2 of a normal density, 1 bit per value, times its share of 1.
    """
    process = Diffusion(schedule=name, num_timesteps=num_timesteps, learned_variance=True)
    std, batch, side = 0.2, 8000, 16
    x = jnp.round(std * noise("x", batch, side, side, 1) * 127.5) / 127.5
    entropy = math.log2(127.5 * std * math.sqrt(2 * math.pi * math.e))
    _, metrics = train_loss(gaussian_network(process, std**2), process, x, None, KEY)
    in_first_step = batch / (num_timesteps or 1000) * side**2  # exactly: draws are evenly spread
    assert float(metrics["vlb"]) == pytest.approx(entropy, abs=4 / math.sqrt(in_first_step))


def test_gradient_of_vlb_reaches_the_variance_channels_only():
    t = jnp.array([0, 1, 400, 999])
    logsnr_t = schedule.logsnr(LEARNED, t)
    logsnr_s = jnp.where(t == 0, jnp.inf, schedule.logsnr(LEARNED, jnp.maximum(t - 1, 0)))
    x, z_t, output = jnp.tanh(noise("x", 4, 2, 2, 3)), noise("z", 4, 2, 2, 3), noise("out", 4, 2, 2, 6)
    terms = jax.jit(jax.grad(lambda out: loss.vlb_terms(LEARNED, x, z_t, logsnr_t, logsnr_s, out).sum()))
    grad = terms(output)
    assert np.all(np.isfinite(grad))
    np.testing.assert_array_equal(grad[..., :3], 0)
    assert np.all(np.abs(grad[1:, ..., 3:]) > 0)


def test_the_mean_is_trained_by_mse_alone_and_the_variance_by_vlb_alone():
    x = jnp.tanh(noise("x", 16, 2, 2, 1))

    def value(params, process):
        def denoise(z_t, time, cond):
            return jnp.concatenate([params[0] * z_t, params[1] + 0 * z_t], axis=-1)

        return loss.diffusion_loss(denoise, process, x, None, KEY)[0]

    gradient = jax.jit(jax.grad(value), static_argnums=1)
    off, on = (
        gradient(jnp.array([0.9, 0.1]), dataclasses.replace(LEARNED, vlb_weight=w)) for w in (0.0, 0.001)
    )
    assert off[0] == on[0] != 0
    assert off[1] == 0 != on[1]


def test_the_first_step_borrows_the_posterior_variance_of_the_second():
    beta = schedule.betas(LEARNED)
    alpha_bar = np.cumprod(1 - beta)
    borrowed = beta[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])
    x, z_t = jnp.zeros((1, 1, 2, 1)), jnp.full((1, 1, 2, 1), 0.004)
    logsnr_t, clean = schedule.logsnr(LEARNED, jnp.array([0])), jnp.full(1, jnp.inf)
    posterior = jnp.concatenate([jnp.zeros_like(x), -jnp.ones_like(x)], axis=-1)
    mean = 0.004 / math.sqrt(alpha_bar[0])
    edges = ((mean + end) / math.sqrt(2 * borrowed) for end in (1 / 255, -1 / 255))
    mass = 0.5 * np.subtract(*(math.erf(edge) for edge in edges))
    found = loss.vlb_terms(LEARNED, x, z_t, logsnr_t, clean, posterior)
    assert float(found[0]) == pytest.approx(-math.log2(mass), rel=1e-3)


def test_one_timestep_has_a_finite_vlb():
    process = Diffusion(num_timesteps=1, learned_variance=True)
    _, metrics = train_loss(gaussian_network(process, 1.0), process, noise("x", 4, 2, 2, 1), None, KEY)
    assert np.isfinite(metrics["vlb"])


def test_a_network_without_variance_channels_cannot_learn_them():
    with pytest.raises(
        ConfigError, match=r"gave 1 channels for images of 1; learned_variance = True expects 2"
    ):
        loss.diffusion_loss(lambda z, t, c: z, LEARNED, noise("x", 4, 2, 2, 1), None, KEY)


# ----------------------------------------------------------------------------------------- guidance


def mixture_eps(means, variance: float):
    """Returns eps(z_t, time, cond) of Gaussians at `means`; cond f32[B,K] weights them."""

    def denoise(z_t, time, cond):
        logsnr = schedule.logsnr(CONTINUOUS[0], time / 1000)[:, None]
        alpha, sigma = schedule.signal_noise(logsnr)
        total = alpha**2 * variance + sigma**2
        away = z_t[:, :, 0, 0] - alpha * means  # f32[B,K]
        weights = jax.nn.softmax(jnp.log(cond) - away**2 / (2 * total), axis=1)
        eps = sigma / total * jnp.sum(weights * away, axis=1, keepdims=True)
        return jnp.concatenate([eps, cond[:, :1] + time[:, None] / 1000], axis=1)[:, None, None, :]

    return denoise


def test_guidance_follows_the_gradient_of_the_sharpened_density():
    means, variance = jnp.array([[-0.5, 0.5]]), 0.04
    cond, null = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), jnp.full((3, 2), 0.5)
    time = jnp.array([50.0, 400.0, 900.0])
    network = mixture_eps(means, variance)

    def log_density(z_t, weight):
        alpha, sigma = schedule.signal_noise(schedule.logsnr(CONTINUOUS[0], time / 1000)[:, None])
        logs = -((z_t[:, :, 0, 0] - alpha * means) ** 2) / (2 * (alpha**2 * variance + sigma**2))
        each = [jax.nn.logsumexp(logs + jnp.log(c), axis=1) for c in (cond, null)]
        return jnp.sum(weight * each[0] + (1 - weight) * each[1])

    @jax.jit
    def found_and_expected(z_t, weight):
        _, sigma = schedule.signal_noise(schedule.logsnr(CONTINUOUS[0], time / 1000))
        score = jax.grad(log_density)(z_t, weight)[:, 0, 0, 0]
        return guidance.guide(network, cond, null, weight, 1)(z_t, time)[:, 0, 0, 0], -sigma * score

    for weight in (0.0, 1.0, 1.25, 5.0):
        found, expected = found_and_expected(noise("z", 3, 1, 1, 1), weight)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_variance_channels_come_from_the_conditional_pass():
    cond, null = jnp.array([[1.0, 0.0], [0.25, 0.75]]), jnp.full((2, 2), 0.5)
    time = jnp.array([100.0, 200.0])
    network = mixture_eps(jnp.array([[-0.5, 0.5]]), 0.04)
    out = jax.jit(guidance.guide(network, cond, null, jnp.float32(3.0), 1))(noise("z", 2, 1, 1, 1), time)
    np.testing.assert_allclose(out[:, 0, 0, 1], cond[:, 0] + time / 1000)


def test_both_passes_are_one_batch_and_trees_are_paired():
    seen = []

    def denoise(z_t, time, cond):
        seen.append((z_t.shape, time.shape, jax.tree.map(jnp.shape, cond)))
        return z_t * cond["text"].sum(axis=(1, 2))[:, None, None, None]

    tree = {"text": jnp.ones((3, 5, 2)), "low_res": jnp.ones((3, 4, 4, 1))}
    null = {"text": jnp.zeros((3, 5, 2)), "low_res": jnp.ones((3, 4, 4, 1))}
    z_t = noise("z", 3, 4, 4, 1)
    out = guidance.guide(denoise, tree, null, jnp.float32(2.0), 1)(z_t, jnp.ones(3))
    assert seen == [((6, 4, 4, 1), (6,), {"text": (6, 5, 2), "low_res": (6, 4, 4, 1)})]
    np.testing.assert_allclose(out, 20 * z_t, rtol=1e-6)  # 2 * (10 z) + (1 - 2) * 0


def test_autoguidance_mixes_two_networks_on_the_same_conditioning():
    cond, weak_cond, z_t = noise("c", 2, 3, 3, 2), noise("n", 2, 3, 3, 2), noise("z", 2, 3, 3, 1)

    def network(z_t, time, cond):
        return cond + time[:, None, None, None]

    out = guidance.autoguide(network, network, cond, weak_cond, jnp.float32(3.0), 1)(z_t, jnp.ones(2))
    np.testing.assert_allclose(out[..., :1], 3 * cond[..., :1] - 2 * weak_cond[..., :1] + 1, rtol=1e-5)
    np.testing.assert_array_equal(out[..., 1:], cond[..., 1:] + 1)  # the variance is the network's own


@pytest.mark.parametrize("kind", ["v", "x"])
def test_guiding_v_or_x_equals_guiding_eps(kind):
    z_t, logsnr, weight = noise("z", 2, 3, 3, 1), jnp.float32(0.3), 1.7
    cond, null = noise("c", 2, 3, 3, 1), noise("n", 2, 3, 3, 1)
    mixed = prediction.to_eps(kind, z_t, logsnr, weight * cond + (1 - weight) * null)
    each = [prediction.to_eps(kind, z_t, logsnr, out) for out in (cond, null)]
    np.testing.assert_allclose(mixed, weight * each[0] + (1 - weight) * each[1], atol=1e-5)


# ------------------------------------------------------------------------------------------ cascade


def test_aug_level_zero_returns_the_input_bit_for_bit():
    low_res, keys = noise("low", 3, 8, 8, 3), rng.for_images(KEY, jnp.arange(3))
    out = augment(low_res, jnp.array([0.0, 0.3, 0.0]), keys)
    np.testing.assert_array_equal(out[0].view(jnp.int32), low_res[0].view(jnp.int32))
    np.testing.assert_array_equal(out[2].view(jnp.int32), low_res[2].view(jnp.int32))
    assert np.all(np.asarray(out[1] != low_res[1]))


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_aug_level_is_a_time_of_the_cosine_process(level):
    low_res, keys = jnp.full((512, 4, 4, 1), 0.6), rng.for_images(KEY, jnp.arange(512))
    out = augment(low_res, jnp.full(512, level), keys)
    alpha = math.cos((level + 0.008) / 1.008 * math.pi / 2)
    deviation = 5 / math.sqrt(out.size)
    assert float(out.mean()) == pytest.approx(0.6 * alpha, abs=deviation)
    assert float(out.std()) == pytest.approx(math.sqrt(1 - alpha**2), abs=deviation)


def test_augmentation_of_an_image_depends_on_its_own_key_only():
    low_res, keys, level = noise("low", 4, 8, 8, 1), rng.for_images(KEY, jnp.arange(4)), jnp.full(4, 0.4)
    whole = augment(low_res, level, keys)
    part = augment(low_res[2:3], level[2:3], keys[2:3])
    np.testing.assert_array_equal(part[0], whole[2])
    assert not np.allclose(whole[0] - low_res[0], whole[1] - low_res[1], atol=0.1)


def test_discrete_augmentation_is_a_step_of_a_thousand_and_never_none():
    """DeepFloyd IF: step int(1000 level), at most 999, and step 0 adds noise, too."""
    level = np.array([0.0, 0.25, 0.2509, 1.0] * 256, np.float32)
    low_res, keys = jnp.full((1024, 4, 4, 1), 0.6), rng.for_images(KEY, jnp.arange(1024))
    out, aug_time = augment_all(low_res, level, "discrete", keys)
    np.testing.assert_array_equal(aug_time[:4], [0, 250, 250, 999])
    kept = np.cumprod(1 - schedule.betas(LEARNED))
    for row, step in enumerate((0, 250, 250, 999)):
        part = np.asarray(out[row::4])
        deviation = 5 * math.sqrt(1 - kept[step]) / math.sqrt(part.size)
        assert part.mean() == pytest.approx(0.6 * math.sqrt(kept[step]), abs=deviation + 1e-6)
        assert part.std() == pytest.approx(math.sqrt(1 - kept[step]), abs=deviation)
    assert not np.array_equal(out[0], low_res[0])


def test_every_thousandth_is_its_own_discrete_step():
    """In float32 1000 x 0.251 is below 251."""
    level = (np.arange(1000) / 1000).astype(np.float32)
    keys = rng.for_images(KEY, jnp.arange(1000))
    _, aug_time = augment_all(jnp.zeros((1000, 1, 1, 1)), level, "discrete", keys)
    np.testing.assert_array_equal(aug_time, np.arange(1000))


def test_continuous_augmentation_tells_the_level_in_thousandths():
    keys, level = rng.for_images(KEY, jnp.arange(3)), jnp.array([0.0, 0.25, 1.0])
    _, aug_time = augment_all(noise("low", 3, 4, 4, 1), level, "continuous", keys)
    np.testing.assert_array_equal(aug_time, [0.0, 250.0, 1000.0])


def test_a_network_without_augmentation_gets_the_images_as_they_are():
    keys, low_res = rng.for_images(KEY, jnp.arange(3)), noise("low", 3, 4, 4, 1)
    out, aug_time = augment_all(low_res, jnp.zeros(3), "none", keys)
    np.testing.assert_array_equal(out, low_res)
    np.testing.assert_array_equal(aug_time, 0)
    with pytest.raises(ConfigError, match="'blur'; expected continuous, discrete or none"):
        cascade.augment_low_res(low_res, jnp.zeros(3), "blur", keys)


def test_aligned_corners_reach_from_the_first_pixel_to_the_last():
    ramp = jnp.arange(3.0).reshape(1, 3, 1, 1) * jnp.ones((2, 3, 2, 3))
    large = cascade.enlarge(ramp, (9, 7), "align_corners")
    assert large.shape == (2, 9, 7, 3)
    np.testing.assert_allclose(large[1, :, 4, 2], np.linspace(0, 2, 9), atol=1e-6)
    with pytest.raises(ConfigError, match="'nearest'; expected half_pixel or align_corners"):
        cascade.enlarge(ramp, 9, "nearest")
    with pytest.raises(ConfigError, match="3x2 px do not enlarge to 2x8"):
        cascade.enlarge(ramp, (2, 8))


def test_enlarging_keeps_a_ramp_and_shrinking_undoes_flat_boxes():
    ramp = jnp.arange(4.0).reshape(1, 1, 4, 1) * jnp.ones((2, 4, 1, 3))
    large = cascade.enlarge(ramp, 8)
    assert large.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(large[0, 3, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
    np.testing.assert_allclose(cascade.shrink(jnp.repeat(jnp.repeat(ramp, 2, 1), 2, 2), 4), ramp, atol=1e-6)


def test_shrinking_by_a_fraction_is_refused():
    with pytest.raises(ConfigError, match=r"8x8 px do not divide into 3x3 boxes"):
        cascade.shrink(jnp.zeros((1, 8, 8, 1)), 3)
