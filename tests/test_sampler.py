"""Samplers against closed forms: the exact denoiser of Gaussian data must give back the data."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug import rng
from synthaug.diffusion import prediction, sampler, schedule, solvers
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Sampler

KEY = rng.root(0)
SHAPE = (2, 2, 1)
COSINE = Diffusion(schedule="cosine", num_timesteps=0)
DISCRETE = Diffusion(schedule="cosine", num_timesteps=1000)
PLAIN = Sampler(threshold="none")

# Gaussian data in 2x2 pixels: a mean, and a full covariance by its axes and the variances along them
MEAN = np.array([0.5, -0.3, 0.1, 0.0])
AXES = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
VARIANCES = np.array([0.02, 0.1, 0.3, 1.0])

for_images = jax.jit(rng.for_images)
logsnr_at = jax.jit(schedule.logsnr, static_argnums=0)
draw_noise = jax.jit(sampler.draw_noise, static_argnums=2)
run = jax.jit(sampler.sample, static_argnums=(0, 1, 2, 8))


@functools.cache  # one function object per process, so that jit compiles once
def gaussian_denoiser(process: Diffusion):
    """Returns the exact denoiser of the data above if cond, f32[B], is 1, and a wrong one else."""
    axes, variances, mean = (a.astype(np.float32) for a in (AXES, VARIANCES, MEAN[None]))

    def denoise(z_t, time, cond):
        t = time.astype(jnp.int32) if process.num_timesteps else time / 1000
        logsnr = schedule.logsnr(process, t)[:, None]
        alpha, sigma = schedule.signal_noise(logsnr)
        along = (z_t.reshape(-1, 4) - alpha * mean) @ axes
        shrunk = cond[:, None] * alpha * variances[None] / (alpha**2 * variances[None] + sigma**2) * along
        x = (mean + shrunk @ axes.T).reshape(z_t.shape)
        eps = (z_t - alpha[..., None, None] * x) / sigma[..., None, None]
        return prediction.target(process.prediction, x, eps, logsnr[..., None, None])

    return denoise


def draw(settings, process, steps, num_images, gain=1.0, first=0):
    """Returns f32[N,4] samples with the denoiser above."""
    keys, cond = for_images(KEY, first + np.arange(num_images)), np.full(num_images, gain, np.float32)
    grid, static = schedule.step_grid(process, steps), sampler.static_part(settings)
    denoise = gaussian_denoiser(process)
    images = run(denoise, static, process, grid, sampler.knobs(settings), keys, cond, cond, SHAPE)
    return np.asarray(images, np.float64).reshape(num_images, 4)


def exact_variance(settings: Sampler, process: Diffusion, steps: int, variance: float) -> float:
    """Returns the variance an ideal sampler of `steps` steps gives data of a variance, in float64.

    With the exact denoiser x = gain z_t every step is z_s = a z_t + b x_before + noise, in one dimension.
    """
    grid = schedule.step_grid(process, steps)
    logsnr_t = np.asarray(grid.logsnr_t, np.float64)
    half = np.append(logsnr_t, np.inf) / 2  # lambda of the DPM-Solver papers
    covariance = np.diag([1.0, 0.0])  # of (z_t, x_before)
    for i, (l_t, l_s) in enumerate(zip(logsnr_t, np.append(logsnr_t[1:], np.inf), strict=True)):
        a_t, s_t, a_s, s_s = (1 / math.sqrt(1 + math.exp(-r)) for r in (l_t, -l_t, l_s, -min(l_s, 700)))
        gain, gap = a_t * variance / (a_t**2 * variance + s_t**2), math.exp(l_t - l_s)
        b, new = 0.0, 0.0
        if settings.solver == "ddpm":
            a = gap * a_s / a_t + (1 - gap) * a_s * gain
            mix = settings.logvar_mix
            new = 0.0 if l_s == np.inf else (1 - gap) * s_s ** (2 - 2 * mix) * s_t ** (2 * mix)
        elif settings.solver == "ddim":
            new = settings.eta**2 * (1 - gap) * s_s**2
            a = a_s * gain + math.sqrt(max(s_s**2 - new, 0)) * (1 - a_t * gain) / s_t
        elif settings.solver == "heun":
            h = math.exp((l_t - l_s) / 2)  # e^-h
            a = s_s / s_t + a_s * (1 - h) * gain
            if l_s < np.inf:
                a = s_s / s_t + a_s * (1 - h) * (gain + a * a_s * variance / (a_s**2 * variance + s_s**2)) / 2
        else:
            h = half[i + 1] - half[i]
            weight = h / (2 * (half[i] - half[i - 1])) if 0 < i < steps - 1 else 0.0
            a = s_s / s_t + a_s * (1 - math.exp(-h)) * (1 + weight) * gain
            b = -a_s * (1 - math.exp(-h)) * weight
        step = np.array([[a, b], [gain, 0.0]])
        covariance = step @ covariance @ step.T + np.diag([new, 0.0])
    return covariance[0, 0]


def check_moments(samples, variances, slack=0.0):
    """Fails if a moment is more than 5 standard errors (plus a share `slack` of the variances) off.

    Along the axes, not pixel by pixel: there the largest variance would hide errors of the smallest.
    """
    along, spread = samples @ AXES, np.outer(variances, variances)
    errors = np.sqrt((spread + np.diag(variances**2)) / len(samples))
    assert np.all(np.abs(along.mean(0) - MEAN @ AXES) < 5 * np.sqrt(variances / len(samples)))
    assert np.all(np.abs(np.cov(along.T) - np.diag(variances)) < 5 * errors + slack * np.sqrt(spread))


SOLVERS = [
    dataclasses.replace(PLAIN, solver="ddpm", logvar_mix=0.0),
    dataclasses.replace(PLAIN, solver="ddpm", logvar_mix=0.3),
    dataclasses.replace(PLAIN, solver="ddpm", logvar_mix=1.0),
    dataclasses.replace(PLAIN, solver="ddim", eta=0.0),
    dataclasses.replace(PLAIN, solver="ddim", eta=0.5),
    dataclasses.replace(PLAIN, solver="ddim", eta=1.0),
    dataclasses.replace(PLAIN, solver="dpmpp_2m"),
    dataclasses.replace(PLAIN, solver="heun"),
]


def name(settings):
    return f"{settings.solver}-{settings.logvar_mix}-{settings.eta}"


# -------------------------------------------------------------------------------- mean and covariance


@pytest.mark.parametrize("settings", SOLVERS, ids=name)
def test_few_steps_give_the_moments_that_the_recursion_predicts(settings):
    """At 24 steps variances are off by up to half; the solver must be off by exactly that."""
    samples = draw(settings, COSINE, 24, 8192)
    predicted = np.array([exact_variance(settings, COSINE, 24, v) for v in VARIANCES])
    check_moments(samples, predicted)
    assert not np.allclose(predicted, VARIANCES, rtol=0.02)


@pytest.mark.parametrize("settings", SOLVERS, ids=name)
def test_many_steps_give_the_mean_and_covariance_of_the_data(settings):
    samples = draw(settings, COSINE, 512, 4096)
    check_moments(samples, VARIANCES, slack=0.06)


@pytest.mark.parametrize("settings", SOLVERS, ids=name)
def test_the_error_of_the_recursion_vanishes_with_the_steps(settings):
    off = [
        max(abs(exact_variance(settings, COSINE, steps, v) / v - 1) for v in VARIANCES)
        for steps in (24, 128, 512)
    ]
    assert off[0] > off[1] > off[2] and off[2] < 0.055


@pytest.mark.parametrize(
    "process",
    [
        dataclasses.replace(DISCRETE, prediction="v"),
        dataclasses.replace(DISCRETE, schedule="linear", prediction="x"),
    ],
    ids=str,
)
def test_discrete_time_and_other_predictions_give_the_moments_that_the_recursion_predicts(process):
    predicted = np.array([exact_variance(SOLVERS[1], process, 24, v) for v in VARIANCES])
    check_moments(draw(SOLVERS[1], process, 24, 8192), predicted)


@pytest.mark.parametrize("settings", SOLVERS, ids=name)
def test_a_wrong_denoiser_fails_the_check_of_the_moments(settings):
    samples = draw(settings, COSINE, 24, 8192, gain=0.95)
    predicted = np.array([exact_variance(settings, COSINE, 24, v) for v in VARIANCES])
    with pytest.raises(AssertionError):
        check_moments(samples, predicted)


def test_a_wrong_denoiser_fails_the_check_of_the_moments_after_many_steps():
    with pytest.raises(AssertionError):
        check_moments(draw(SOLVERS[1], COSINE, 512, 4096, gain=0.95), VARIANCES, slack=0.06)


def test_two_modes_come_out_with_their_shares_and_guidance_leaves_the_boundary():
    """Two classes at -0.4 and 0.4: unconditional samples are half and half; guidance pushes outward."""
    means, variance = jnp.array([[-0.4, 0.4]]), 0.04

    def denoise(z_t, time, cond):
        logsnr = schedule.logsnr(COSINE, time / 1000)[:, None]
        alpha, sigma = schedule.signal_noise(logsnr)
        total = alpha**2 * variance + sigma**2
        away = z_t[:, :, 0, 0] - alpha * means
        weights = jax.nn.softmax(jnp.log(cond) - away**2 / (2 * total), axis=1)
        return (sigma / total * jnp.sum(weights * away, axis=1, keepdims=True))[..., None, None]

    def samples(weight):
        settings = Sampler(threshold="none", solver="ddpm", logvar_mix=0.3, guidance_weight=weight)
        keys = for_images(KEY, np.arange(4096))
        cond, null = np.tile(np.float32([0, 1]), (4096, 1)), np.full((4096, 2), 0.5, "f")
        grid, static = schedule.step_grid(COSINE, 128), sampler.static_part(settings)
        return run(
            denoise, static, COSINE, grid, sampler.knobs(settings), keys, cond, null, (1, 1, 1)
        ).ravel()

    null, conditional, guided = (samples(weight) for weight in (0.0, 0.9999, 3.0))
    assert float(jnp.mean(null > 0)) == pytest.approx(0.5, abs=5 * 0.5 / 64)
    assert float(jnp.var(null)) == pytest.approx(0.16 + 0.04, rel=0.08)
    assert float(jnp.mean(conditional)) == pytest.approx(0.4, abs=5 * 0.2 / 64)
    assert float(jnp.mean(guided)) > 0.45
    assert float(jnp.mean(guided < 0.1)) < 0.5 * float(jnp.mean(conditional < 0.1))


# ------------------------------------------------------------------------------------------ guidance


def test_guidance_weight_one_is_one_pass_and_reads_no_null_conditioning():
    calls = []

    def denoise(z_t, time, cond):
        jax.debug.callback(lambda: calls.append((z_t.shape[0], time.shape)))  # each time it runs
        return gaussian_denoiser(COSINE)(z_t, time, cond)

    def samples(weight, null):
        calls.clear()
        settings = dataclasses.replace(PLAIN, guidance_weight=weight)
        grid, keys = schedule.step_grid(COSINE, 6), for_images(KEY, np.arange(8))
        images = run(
            denoise, settings, COSINE, grid, sampler.knobs(settings), keys, np.ones(8, "f"), null, SHAPE
        )
        jax.effects_barrier()
        return images, list(calls)

    unguided, passes = samples(1.0, None)
    assert passes == [(8, (8,))] * 6
    unread, passes = samples(1.0, np.full(8, np.nan, "f"))
    assert passes == [(8, (8,))] * 6
    np.testing.assert_array_equal(unread, unguided)
    guided, passes = samples(1.5, np.ones(8, "f"))
    assert passes == [(16, (16,))] * 6
    np.testing.assert_allclose(guided, unguided, atol=1e-3)  # both passes agree: nothing to guide


def counted(calls: list[int]):
    """Returns the exact denoiser, which notes the size of its batch each time it really runs."""

    def denoise(z_t, time, cond):
        jax.debug.callback(lambda: calls.append(z_t.shape[0]))
        return gaussian_denoiser(COSINE)(z_t, time, cond)

    return denoise


@pytest.mark.parametrize(
    ("low", "high", "guided"),
    [(0.3, 0.7, (3, 8)), (0.0, 0.5, (5, 10)), (0.65, 1.0, (0, 4)), (0.0, 1.0, (0, 10))],
)
def test_outside_the_guidance_interval_a_step_is_one_pass(low, high, guided):
    """Ten steps at 1.0, 0.9, ..., 0.1; both ends of the interval belong to it."""
    calls: list[int] = []
    settings = dataclasses.replace(PLAIN, guidance_weight=3.0, guidance_min_t=low, guidance_max_t=high)
    grid, keys = schedule.step_grid(COSINE, 10), for_images(KEY, np.arange(8))
    static, knobs = sampler.static_part(settings), sampler.knobs(settings)
    run(counted(calls), static, COSINE, grid, knobs, keys, np.ones(8, "f"), np.zeros(8, "f"), SHAPE)
    jax.effects_barrier()
    assert calls == [16 if guided[0] <= i < guided[1] else 8 for i in range(10)]


def test_guidance_within_an_interval_is_the_weight_switched_on_and_off():
    grid, keys = schedule.step_grid(COSINE, 10), for_images(KEY, np.arange(8))
    cond, null = np.ones(8, "f"), np.full(8, 0.5, "f")
    settings = Sampler(threshold="none", solver="ddim", guidance_weight=3.0, guidance_max_t=0.5)

    def image(settings, grid):
        static, knobs = sampler.static_part(settings), sampler.knobs(settings)
        return run(gaussian_denoiser(COSINE), static, COSINE, grid, knobs, keys, cond, null, SHAPE)

    @jax.jit
    def step(z, weight, time, logsnr_t, logsnr_s):
        eps = [gaussian_denoiser(COSINE)(z, jnp.full(8, time), jnp.asarray(c)) for c in (cond, null)]
        x = prediction.to_x("eps", z, logsnr_t, weight * eps[0] + (1 - weight) * eps[1])
        return solvers.ddim_step(z, x, logsnr_t, logsnr_s, jnp.float32(0), jnp.zeros_like(z))

    z = draw_noise(keys, 10, SHAPE)  # by hand: a weight of 1 down to 0.6, then of 3
    for i, (_, *at) in enumerate(zip(*grid, strict=True)):
        z = step(z, jnp.float32(1.0 if i < 5 else 3.0), *at)
    np.testing.assert_allclose(image(settings, grid), z, atol=1e-5)
    assert np.abs(image(dataclasses.replace(settings, guidance_max_t=1.0), grid) - z).max() > 0.01


def test_a_sweep_over_intervals_compiles_once_and_each_counts():
    compiled = jax.jit(functools.partial(sampler.sample, gaussian_denoiser(COSINE)), static_argnums=(0, 1, 7))
    grid, keys = schedule.step_grid(COSINE, 6), for_images(KEY, np.arange(8))
    images = []
    for low, high in ((0.0, 0.5), (0.3, 0.8), (0.5, 1.0)):
        settings = dataclasses.replace(PLAIN, guidance_weight=3.0, guidance_min_t=low, guidance_max_t=high)
        static, knobs = sampler.static_part(settings), sampler.knobs(settings)
        image = compiled(static, COSINE, grid, knobs, keys, np.ones(8, "f"), np.zeros(8, "f"), SHAPE)
        images.append(np.asarray(image).tobytes())
    assert compiled._cache_size() == 1 and len(set(images)) == 3


def test_autoguidance_leads_away_from_the_weaker_network():
    """Both networks are linear in a gain: w = 3 with gains 1 and 0.9 is a network of gain 1.2."""
    grid, keys, denoise = (
        schedule.step_grid(COSINE, 6),
        for_images(KEY, np.arange(8)),
        gaussian_denoiser(COSINE),
    )
    guided = dataclasses.replace(PLAIN, guidance_weight=3.0, guide_checkpoint=500)
    static, knobs = sampler.static_part(guided), sampler.knobs(guided)
    gains = [np.full(8, gain, np.float32) for gain in (1.0, 0.9, 1.2)]
    found = sampler.sample(
        denoise, static, COSINE, grid, knobs, keys, gains[0], gains[1], SHAPE, weaker=denoise
    )
    alone = sampler.sample(denoise, PLAIN, COSINE, grid, sampler.knobs(PLAIN), keys, gains[2], None, SHAPE)
    np.testing.assert_allclose(found, alone, atol=1e-4)


def test_a_sweep_over_numbers_compiles_once_and_each_point_counts():
    compiled = jax.jit(functools.partial(sampler.sample, gaussian_denoiser(COSINE)), static_argnums=(0, 1, 7))
    grid, keys = schedule.step_grid(COSINE, 6), for_images(KEY, np.arange(8))

    def image(**changes):
        settings = dataclasses.replace(PLAIN, **changes)
        static, knobs = sampler.static_part(settings), sampler.knobs(settings)
        return compiled(static, COSINE, grid, knobs, keys, np.ones(8, "f"), np.zeros(8, "f"), SHAPE)

    images = [image(guidance_weight=w, logvar_mix=m) for w in (1.25, 1.5, 5.0) for m in (0.0, 0.3, 1.0)]
    assert compiled._cache_size() == 1
    assert len({np.asarray(i).tobytes() for i in images}) == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_weight": 1.0},
        {"eta": 0.0},
        {"logvar_mix": "learned"},
        {"threshold": "none"},
        {"solver": "ddim"},
        {"guidance_min_t": 0.2},
        {"guidance_max_t": 0.8},
        {"guide_checkpoint": 500},
    ],
    ids=str,
)
def test_what_changes_the_program_is_no_number(changes):
    settings = Sampler(guidance_weight=1.5, eta=0.5, logvar_mix=0.3)
    assert sampler.static_part(dataclasses.replace(settings, **changes)) != sampler.static_part(settings)


def test_what_only_changes_numbers_leaves_the_program():
    settings = Sampler(guidance_weight=1.5, eta=0.5, logvar_mix=0.3)
    other = Sampler(
        guidance_weight=9.0,
        eta=1.0,
        logvar_mix=1.0,
        num_sampling_steps=7,
        checkpoint=5,
        ema_length=0.1,
        aug_level=0.1,
    )
    assert sampler.static_part(settings) == sampler.static_part(other)
    assert sampler.knobs(other)._asdict() == {
        "guidance_weight": 9.0, "guidance_min_t": 0.0, "guidance_max_t": 1.0, "logvar_mix": 1.0, "eta": 1.0
    }  # fmt: skip


# -------------------------------------------------------------------------------- laws of the solvers


def step_inputs():
    draws = np.random.default_rng(3)
    z_t, x, noise = (jnp.asarray(draws.standard_normal((3, *SHAPE)), jnp.float32) for _ in range(3))
    return z_t, x, noise


def test_ddim_with_eta_one_is_ddpm_with_posterior_variance():
    z_t, x, noise = step_inputs()
    for logsnr_t, logsnr_s in [(-20.0, -8.0), (-3.0, -2.9), (0.0, 2.0), (5.0, 5.5), (7.0, math.inf)]:
        ratios = jnp.float32(logsnr_t), jnp.float32(logsnr_s)
        ancestral = solvers.ddpm_step(z_t, x, *ratios, jnp.float32(0), noise)
        np.testing.assert_allclose(
            solvers.ddim_step(z_t, x, *ratios, jnp.float32(1), noise), ancestral, atol=1e-5
        )
    np.testing.assert_allclose(
        draw(SOLVERS[5], COSINE, 24, 8192), draw(SOLVERS[0], COSINE, 24, 8192), atol=2e-3
    )


def test_ddpm_variance_is_the_geometric_mix_of_the_two_bounds():
    z_t, x, _ = step_inputs()
    ratios = jnp.float32(-0.4), jnp.float32(1.1)
    share = 1 - math.exp(-1.5)
    small, large = share / (1 + math.exp(1.1)), share / (1 + math.exp(-0.4))
    for mix in (0.0, 0.3, 1.0):
        one, zero = (
            solvers.ddpm_step(z_t, x, *ratios, jnp.float32(mix), n * jnp.ones_like(x)) for n in (1.0, 0.0)
        )
        np.testing.assert_allclose(one - zero, small ** ((1 - mix) / 2) * large ** (mix / 2), rtol=1e-4)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0, "per pixel"])
def test_the_last_step_returns_the_prediction_without_noise(mix):
    z_t, x, _ = step_inputs()
    ratios, loud = (jnp.float32(6), jnp.float32(jnp.inf)), jnp.full_like(x, 1e30)
    mix = jnp.linspace(0, 1, x.size).reshape(x.shape) if mix == "per pixel" else jnp.float32(mix)
    np.testing.assert_array_equal(solvers.ddpm_step(z_t, x, *ratios, mix, loud), x)
    np.testing.assert_array_equal(solvers.ddim_step(z_t, x, *ratios, jnp.float32(1), loud), x)
    np.testing.assert_array_equal(solvers.exponential_step(z_t, x, *ratios), x)


def flow_error(settings: Sampler, steps: int) -> float:
    """Returns the largest error of the probability flow from t = 0.8 to 0.2 in `steps` steps.

    Its solution for Gaussian data keeps each coordinate's distance to the mean, in standard deviations.
    """
    times = np.linspace(0.8, 0.2, steps + 1).astype(np.float32)
    ratios = logsnr_at(COSINE, times)
    grid = schedule.StepGrid(times[:-1], 1000 * times[:-1], ratios[:-1], ratios[1:])
    keys, cond = for_images(KEY, np.arange(64)), np.ones(64, np.float32)
    knobs, denoise = sampler.knobs(settings), gaussian_denoiser(COSINE)
    found = run(denoise, settings, COSINE, grid, knobs, keys, cond, None, SHAPE).reshape(64, 4)
    (a_t, s_t), (a_s, s_s) = (map(float, schedule.signal_noise(r)) for r in (ratios[0], ratios[-1]))
    grown = np.sqrt((a_s**2 * VARIANCES + s_s**2) / (a_t**2 * VARIANCES + s_t**2))
    start = np.asarray(draw_noise(keys, steps, SHAPE), np.float64).reshape(64, 4)
    exact = a_s * MEAN + ((start - a_t * MEAN) @ AXES * grown) @ AXES.T
    return float(np.abs(found - exact).max())


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_the_error_falls_by_the_order_of_the_solver(solver, order):
    """Twice the steps: half the error of DDIM, a quarter of the second-order solvers'."""
    coarse, fine = (flow_error(dataclasses.replace(PLAIN, solver=solver), steps) for steps in (20, 40))
    assert 2**order * 0.8 < coarse / fine < 2**order * 1.25


def test_heun_asks_the_network_twice_per_step_but_for_the_last():
    calls: list[int] = []
    settings = dataclasses.replace(PLAIN, solver="heun")
    grid, keys = schedule.step_grid(COSINE, 6), for_images(KEY, np.arange(8))
    run(counted(calls), settings, COSINE, grid, sampler.knobs(settings), keys, np.ones(8, "f"), None, SHAPE)
    jax.effects_barrier()
    assert len(calls) == 2 * 6 - 1


def test_editing_starts_from_the_noised_image():
    """One step from t = 1/6: the prediction from that image and the noise of its key."""
    grid, keys = schedule.step_grid(COSINE, 6, start=0.2), for_images(KEY, np.arange(4))
    x = jnp.tanh(jnp.asarray(np.random.default_rng(5).standard_normal((4, *SHAPE)), jnp.float32))
    denoise, gains = gaussian_denoiser(COSINE), jnp.ones(4)
    found = run(denoise, PLAIN, COSINE, grid, sampler.knobs(PLAIN), keys, gains, None, SHAPE, start=x)

    @jax.jit
    def by_hand():
        z = prediction.diffuse(x, sampler.draw_noise(keys, 1, SHAPE), grid.logsnr_t[0])
        return prediction.to_x("eps", z, grid.logsnr_t[0], denoise(z, jnp.full(4, grid.time[0]), gains))

    np.testing.assert_allclose(found, by_hand(), atol=1e-5)
    assert grid.fraction.tolist() == pytest.approx([1 / 6])
    assert np.abs(found - x).max() < 5 * 0.26  # sigma there, and a shrinking denoiser


def test_extrapolation_is_first_order_at_both_ends():
    weights = np.asarray(solvers.extrapolation(schedule.step_grid(COSINE, 6)))
    ratios = np.asarray(logsnr_at(COSINE, np.arange(6, 0, -1, dtype=np.float32) / 6))
    steps = np.diff(ratios)
    np.testing.assert_allclose(weights, [0, *(steps[1:] / (2 * steps[:-1])), 0], rtol=1e-5)
    assert solvers.extrapolation(schedule.step_grid(COSINE, 1)).tolist() == [0.0]


def test_one_step_is_the_prediction_from_pure_noise():
    settings = dataclasses.replace(PLAIN, solver="dpmpp_2m")
    keys = for_images(KEY, np.arange(3))
    z_1 = draw_noise(keys, 1, SHAPE)
    logsnr = logsnr_at(COSINE, jnp.float32(1.0))
    eps = jax.jit(gaussian_denoiser(COSINE))(z_1, jnp.full(3, 1000.0), jnp.ones(3))
    expected = prediction.to_x("eps", z_1, logsnr, eps)
    np.testing.assert_allclose(draw(settings, COSINE, 1, 3), expected.reshape(3, 4), atol=5e-3)


def test_an_image_is_the_same_in_any_batch():
    whole = draw(SOLVERS[1], COSINE, 24, 8192)
    np.testing.assert_allclose(draw(SOLVERS[1], COSINE, 24, 3, first=4), whole[4:7], atol=1e-6)
    assert np.min(np.linalg.norm(whole[:99, None] - whole[None, :99], axis=2) + 9 * np.eye(99)) > 1e-3


def test_noise_differs_from_step_to_step_and_is_standard_normal():
    keys = for_images(KEY, np.arange(8192))
    first, second = (np.asarray(draw_noise(keys, n, SHAPE)).ravel() for n in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)
    assert abs(first.mean()) < 5 / math.sqrt(first.size)
    assert abs(first.var() - 1) < 5 * math.sqrt(2 / first.size)


def test_learned_variance_is_read_per_pixel_from_the_extra_channels():
    process = dataclasses.replace(COSINE, learned_variance=True)
    learned = dataclasses.replace(PLAIN, logvar_mix="learned")
    grid, keys = schedule.step_grid(process, 24), for_images(KEY, np.arange(8))
    mixes = jnp.array([0.0, 0.3, 0.3, 1.0]).reshape(1, *SHAPE)

    def denoise(z_t, time, cond):
        alpha, _ = schedule.signal_noise(schedule.logsnr(process, time / 1000)[:, None, None, None])
        return jnp.concatenate([0.5 * z_t * alpha, 2 * mixes + 0 * z_t - 1], axis=-1)

    def samples(settings):
        static, knobs = sampler.static_part(settings), sampler.knobs(settings)
        return run(denoise, static, process, grid, knobs, keys, (), (), SHAPE)

    found = samples(learned).reshape(8, 4)
    for pixel, mix in enumerate((0.0, 0.3, 0.3, 1.0)):  # this denoiser mixes no pixels
        alone = samples(dataclasses.replace(PLAIN, logvar_mix=mix)).reshape(8, 4)
        np.testing.assert_allclose(found[:, pixel], alone[:, pixel], rtol=1e-4, atol=1e-5)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ConfigError, match="'euler'; expected ddpm, ddim, dpmpp_2m or heun"):
        draw(dataclasses.replace(PLAIN, solver="euler"), COSINE, 2, 1)


# --------------------------------------------------------------------------------------- thresholding


def test_static_threshold_clips():
    x = jnp.array([-3.0, -1.0, 0.2, 1.7]).reshape(1, *SHAPE)
    np.testing.assert_allclose(sampler.threshold(x, Sampler()).ravel(), [-1, -1, 0.2, 1])
    assert sampler.threshold(x, PLAIN) is x


@pytest.mark.parametrize(("largest", "divisors"), [(1e9, (3.0, 1.0)), (1.5, (1.5, 1.0)), (1.0, (1.0, 1.0))])
def test_dynamic_threshold_divides_each_image_by_its_own_percentile(largest, divisors):
    settings = Sampler(threshold="dynamic", threshold_percentile=75, threshold_max=largest)
    x = jnp.array([[-3.0, 0.5, 3.0, 3.5, 1.0], [0.1, -0.2, 0.3, 0.4, 0.5]]).reshape(2, 5, 1, 1)
    found = sampler.threshold(x, settings).reshape(2, 5)
    for image, s in enumerate(divisors):
        expected = np.clip(np.asarray(x[image]).ravel(), -s, s) / s
        np.testing.assert_allclose(found[image], expected, rtol=1e-6)


@pytest.mark.parametrize(("solver", "threshold"), [("ddpm", "static"), ("ddim", "dynamic")])
def test_thresholded_images_stay_within_one_for_a_network_far_off(solver, threshold):
    settings = Sampler(solver=solver, threshold=threshold)

    def denoise(z_t, time, cond):
        return -5.0 * z_t

    grid, keys = schedule.step_grid(COSINE, 6), for_images(KEY, np.arange(8))
    images = run(denoise, settings, COSINE, grid, sampler.knobs(settings), keys, (), (), SHAPE)
    assert np.all(np.isfinite(images)) and np.all(np.abs(images) <= 1)
