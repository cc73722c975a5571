"""The mathematics of diffusion on arrays; it knows no network, no file and no stage.

A variance-preserving process mixes an image x with Gaussian noise eps:

    z_t = alpha_t x + sigma_t eps,   alpha_t² + sigma_t² = 1,   logsnr_t = log(alpha_t² / sigma_t²)

Every function takes the log signal-to-noise ratio, never alpha or sigma: it is finite in float32 where
1 - alpha_t² is not, and continuous time, discrete time and any respacing of either look alike.

Files, in the order to read them:

    schedule     time -> logsnr; the grids of training and of sampling
    prediction   network output <-> x, eps, v; the posterior of z_s given z_t and x
    loss         L_simple and L_vlb
    guidance     conditional and unconditional pass in one batch; autoguidance
    solvers      one step of DDPM, DDIM, DPM-Solver++, Heun
    sampler      one scan over the steps
    cascade      the low-resolution input of a super-resolution model
    spacing      DeepFloyd IF's named lists of timesteps

Letters:

    B images, H height, W width, C channels, T sampling steps (L tokens, D embedding width, K classes)
    x       f32[B,H,W,C]   clean image in [-1, 1]
    eps     f32[B,H,W,C]   standard normal noise
    v       f32[B,H,W,C]   alpha_t eps - sigma_t x  (Salimans & Ho 2022)
    z_t     f32[B,H,W,C]   noised image at time t; z_s the one at the earlier, cleaner time s < t
    logsnr  f32[], f32[B]  log(alpha²/sigma²): -20 is noise, +20 all but clean, +inf the clean image itself

A network is a callable `denoise(z_t f32[B,H,W,C], time f32[B], cond) -> f32[B,H,W,C or 2C]`; `time` is what
`schedule.network_time` says, `cond` any tree of arrays that begin with B.
"""
