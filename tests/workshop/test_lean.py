"""What is exported says what was trained, in fewer steps."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, RobertaConfig

from agent.core.errors import ConfigError
from agent.workshop.export import export
from agent.workshop.export.export import export_trunk
from agent.workshop.export.lean import Lean
from agent.workshop.training.network import open_encoder, read

LAYERS = 3


@pytest.fixture
def encoder() -> BertModel:
    """Return a small encoder none of whose weights is 0 or like another."""
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=8,
    )
    encoder = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.normal_(std=0.4)
    return encoder


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    """Return ids and mask of texts of several lengths."""
    ids = torch.randint(1, 50, (3, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 1:] = 0
    return ids * mask, mask


def test_says_the_same(encoder: BertModel, texts: tuple[Tensor, Tensor]) -> None:
    """Hidden states of all real tokens are those of the encoder, padded or not."""
    ids, mask = texts
    with torch.no_grad():
        expected = read(encoder, ids, mask)[mask == 1]
        found = read(Lean(encoder), ids, mask)[mask == 1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_keys_lose_their_bias(encoder: BertModel) -> None:
    """What makes no difference is left out; the encoder given keeps it."""
    names = {name for name, _ in encoder.named_parameters()}
    left = {name for name, _ in Lean(encoder).encoder.named_parameters()}
    keys = (f"encoder.layer.{n}.attention.self.key.bias" for n in range(LAYERS))
    assert names - left == set(keys)
    assert {name for name, _ in encoder.named_parameters()} == names


def test_one_that_says_something_else_is_noticed(
    encoder: BertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is compared with what was trained, not with what was written."""

    def wrong(encoder: Any) -> Lean:
        lean = Lean(encoder)
        with torch.no_grad():
            lean.encoder.encoder.layer[1].output.dense.bias[0] += 0.1
        return lean

    monkeypatch.setattr(export, "Lean", wrong)
    with pytest.raises(RuntimeError, match="is off by"):
        export_trunk(encoder, tmp_path / "encoder.onnx")


def test_another_kind_of_encoder_is_refused(tmp_path: Path) -> None:
    """Told before any training, not by a graph that is off after it."""
    RobertaConfig(vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="must be a BERT, this is a roberta"):
        open_encoder(tmp_path, range(50), dropout=0.1)
