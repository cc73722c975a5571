"""Numbers about sets of images: FID, Inception Score, precision and recall, accuracy. No models, no files.

Features f[N,D] and logits f[N,K] come in, plain floats go out. Sums over images are exact (`limbs`), so that
order and parts change no bit; what follows is float64, because a Frechet distance is a small difference of
large traces. Letters: N real (or all) images, M generated images, D features, K classes.

Who has features in memory, in a notebook say, takes `moments.of(features).gaussian()` and
`fid.frechet_distance`, `inception_score.inception_score`, `kid.kid` or `kid.kid_of_subsets`,
`neighbours.compare`, or `statistics.of` and `score.score` for a whole row; the stages of a study add up
batches with `statistics.Accumulator` and `statistics.merge` instead. Both ways give the same bits.
"""
