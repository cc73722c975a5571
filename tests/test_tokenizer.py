"""T5's tokens and DeepFloyd IF's clean-up of a prompt."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthaug.errors import DataError
from synthaug.models.tokenizer import END, PAD, Tokenizer, find_tokenizer, prepare_prompt
from tests import tiny_t5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny_t5.train_pieces(tmp_path_factory.mktemp("t5") / "spiece.model"))


def test_tokens_then_the_end_then_padding(tokenizer: Tokenizer) -> None:
    ids, mask, lengths = tokenizer.encode(["", "zero", "St. Bernard"], 16)
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert ids[0].tolist() == [END] + [PAD] * 15
    for row, kept, length in zip(ids, mask, lengths, strict=True):
        assert kept.tolist() == [i < length for i in range(16)]
        assert row[length - 1] == END and (row[length:] == PAD).all()
        assert END not in row[: length - 1] and PAD not in row[: length - 1]
    assert tokenizer.pieces.decode(ids[2][mask[2]].tolist()) == "St. Bernard"


def test_a_long_text_is_cut_keeps_its_end_and_is_counted(tokenizer: Tokenizer) -> None:
    whole, _, (length,) = tokenizer.encode(["eastern hog-nosed snake"], 64)
    cut, mask, (counted,) = tokenizer.encode(["eastern hog-nosed snake"], 5)
    assert counted == length > 5
    assert cut[0].tolist() == [*whole[0, :4].tolist(), END]
    assert mask.all()
    assert tokenizer.encode(["eastern"], 1)[0].tolist() == [[END]]
    assert tokenizer.encode(["eastern hog-nosed snake"], length)[0].tolist() == whole[:, :length].tolist()


@given(text=st.text(max_size=40), length=st.integers(1, 12))
def test_any_text_gives_tokens_of_the_vocabulary(tokenizer: Tokenizer, text: str, length: int) -> None:
    ids, mask, (counted,) = tokenizer.encode([text], length)
    assert ids.shape == mask.shape == (1, length)
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
    assert mask.sum() == min(counted, length) and ids[0, mask.sum() - 1] == END


def test_the_tokenizer_is_found_where_pipelines_have_it(tmp_path: pathlib.Path) -> None:
    encoder = tmp_path / "text_encoder"
    encoder.mkdir()
    with pytest.raises(DataError, match=r"has no spiece\.model; expected it there"):
        find_tokenizer(encoder)
    for place in (tmp_path / "tokenizer", encoder / "tokenizer", encoder):
        place.mkdir(exist_ok=True)
        (place / "spiece.model").touch()
        assert find_tokenizer(encoder) == place / "spiece.model"


def test_what_is_no_tokenizer_of_t5_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="is no sentencepiece model"):
        Tokenizer(tmp_path / "spiece.model")
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_t5.NAMES), model_writer=model, vocab_size=80, minloglevel=2
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    with pytest.raises(DataError, match="expected 0 and 1"):
        Tokenizer(tmp_path / "spiece.model")


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("kite (bird of prey)", "kite bird of prey"),
        ("T-shirt", "t-shirt"),
        ("carved pumpkin / jack-o'-lantern", "carved pumpkin jack-o'-lantern"),
        ("product packet / packaging", "product packet packaging"),
        ("Xoloitzcuintli (Mexican hairless dog)", "xoloitzcuintli mexican hairless dog"),
        ("St. Bernard", "st. bernard"),
        ("Petit Basset Griffon Vendéen", "petit basset griffon vendéen"),
        ("one-two-three-four-five", "one two three four five"),
        ("one-two-three-four", "one-two-three-four"),
        ("cat <b>and</b> &amp; dog <!-- x --><script>no()</script>", "cat and dog"),
        ("photo.jpg of a cat, see www.example.com/cats or @felix", "of a cat, see or"),
        ("cat 1234567 jc6640 jc6640vc 12x30 #12", "cat"),
        ("Cafe\u0301 M&uuml;nster", "caf\u00e9 m\u00fcnster"),
        ("a%20cat+here", "a cat here"),
        ("", ""),
    ],
)
def test_clean_up_of_a_prompt(prompt: str, cleaned: str) -> None:
    assert prepare_prompt(prompt, clean=True) == cleaned


def test_without_clean_up_a_prompt_is_lower_cased_and_trimmed() -> None:
    assert prepare_prompt("  Kite (bird of prey) ", clean=False) == "kite (bird of prey)"


@given(st.text(max_size=60))
def test_any_text_can_be_cleaned(text: str) -> None:
    cleaned = prepare_prompt(text, clean=True)
    assert cleaned == cleaned.strip()
