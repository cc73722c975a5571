"""What `score` and `reference` are asked for on the command line; nothing here takes long to load."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

from synthaug import arguments, config, site
from synthaug.errors import ConfigError
from synthaug.experiment import Score
from synthaug.rundir import RunDir

WEIGHTS = {
    "inception": "classify_image_graph_def.pb, which is in "
    "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz, or pytorch-fid's weights "
    "as safetensors",
    "dinov2": "model.safetensors of https://huggingface.co/facebook/dinov2-large",
}
"""Where people get the weights of an encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for, besides the sets."""

    settings: Score  # with the encoder in it
    run: RunDir | None  # whose encoder is taken instead
    side: int | None  # px that every image is brought to
    resize: str | None  # how
    num_images: int | None  # drawn from a larger set
    split_size: int | None  # in place of settings.splits
    skip_corrupt: bool
    seed: int
    cache: pathlib.Path | None
    quiet: bool
    site: site.Site

    @property
    def kind(self) -> str:
        """Kind of the encoder, one of `experiment.ENCODERS`."""
        settings = self.run.experiment().score if self.run else self.settings
        return settings.encoder.kind

    def channels(self) -> int:
        """Returns the channels of the encoder's images."""
        return self.run.experiment().data.channels if self.run and self.kind == "classifier" else 3


def request_of(args: argparse.Namespace) -> Request:
    """Returns the request that the words of `score` or `reference` mean.

    Raises:
        ConfigError: a value out of range, or words that exclude each other.
    """
    encoder = {name: getattr(args, name) for name in arguments.ENCODED if getattr(args, name) is not None}
    run = None
    if args.encoder in WEIGHTS:
        if not args.weights:
            raise ConfigError(
                f"{args.verb}: no weights for {args.encoder}; name by --weights {WEIGHTS[args.encoder]}."
            )
        encoder |= {"kind": args.encoder, "path": args.weights}
    else:
        run = _run_of(args.encoder, args.verb)
        if args.weights or encoder:
            raise ConfigError(
                f"{args.verb}: --encoder {args.encoder} is a run, which has its own weights; leave "
                "--weights, --backend, --shrink-to and --batch-size out."
            )
    tree: dict[str, Any] = {"encoder": encoder}
    knobs = arguments.SCORED if args.verb == "score" else arguments.KEPT
    for name in knobs:
        if (value := getattr(args, name)) is not None:
            tree[name] = value.split(",") if name == "sizes" else value
    split_size = args.split_size if args.verb == "score" else None
    if split_size is not None and args.splits is not None:
        raise ConfigError(f"{args.verb}: --splits and --split-size exclude each other; leave one out.")
    for name, number in (("size", args.size), ("num_images", args.num_images), ("split_size", split_size)):
        if number is not None and number < 1:
            raise ConfigError(f"{args.verb}: {name} = {number}; expected 1 or more; change it.")
    if (args.size is None) != (args.resize is None):
        raise ConfigError(f"{args.verb}: --size and --resize say together what becomes of images; name both.")
    if args.seed < 0:
        raise ConfigError(f"{args.verb}: seed = {args.seed}; expected 0 or more; change it.")
    return Request(
        settings=config.build(Score, tree, args.verb),
        run=run,
        side=args.size,
        resize=args.resize,
        num_images=args.num_images,
        split_size=split_size,
        skip_corrupt=args.skip_corrupt,
        seed=args.seed,
        cache=args.cache,
        quiet=args.quiet,
        site=site.load(args.site),
    )


def _run_of(text: str, verb: str) -> RunDir:
    run = RunDir(pathlib.Path(text))
    if not (run.path / "experiment.yaml").is_file():
        raise ConfigError(
            f"{verb}: --encoder {text}: is none of {', '.join(WEIGHTS)}, and no directory of a run"
            f"{config.did_you_mean(text, WEIGHTS, end='; name one of these.')}"
        )
    return run
