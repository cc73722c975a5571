"""Numbers about sets of images: FID, Inception Score, precision and recall, accuracy. No models, no files.

Features f[N,D] and logits f[N,K] come in, plain floats go out. All arithmetic is float64, because a Frechet
distance is a small difference of large traces. Letters: N real (or all) images, M generated images,
D features, K classes.
"""
