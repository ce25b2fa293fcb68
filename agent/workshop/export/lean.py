"""The encoder in the form that is exported: the same function in fewer steps.

A device reads one short text at a time, so each step costs time, however small it is.
These steps make no difference and are left out:

- the bias of the keys adds the same number to all scores of a word, and softmax cancels
  it;
- the embedding of the token type (there is one type) is added to the position table;
- the mask is one number added to each score, instead of the library's longer form.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput


class Lean(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """A rewritten copy of a BERT encoder of transformers.

    Weights keep their names below `encoder`. `places` is the position table with the
    token type: tokens x width.
    """

    def __init__(self, encoder: Any) -> None:
        """Copy an encoder; the length of its position table bounds the window."""
        super().__init__()
        self.encoder = deepcopy(encoder).eval()
        embeddings = self.encoder.embeddings
        with torch.no_grad():
            kind = embeddings.token_type_embeddings.weight[0]
            self.places: Tensor
            places = embeddings.position_embeddings.weight + kind
            self.register_buffer("places", places)
        for layer in self.encoder.encoder.layer:
            layer.attention.self.key.bias = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Return `last_hidden_state`: batch x tokens x width."""
        embeddings = self.encoder.embeddings
        words = embeddings.word_embeddings(input_ids)
        hidden = embeddings.LayerNorm(words + self.places[: input_ids.shape[1]])
        hide = (1.0 - attention_mask.to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        for layer in self.encoder.encoder.layer:
            hidden = _layer(layer, hidden, hide[:, None, None, :])
        return BaseModelOutput(last_hidden_state=hidden)


def _layer(layer: Any, hidden: Tensor, hide: Tensor) -> Tensor:
    """Return the hidden states after a layer; `hide` is added to attention scores."""
    own = layer.attention.self
    heads = (*hidden.shape[:2], own.num_attention_heads, own.attention_head_size)
    query, key, value = (
        part(hidden).view(heads).transpose(1, 2)
        for part in (own.query, own.key, own.value)
    )
    scores = query @ key.transpose(2, 3) * own.scaling + hide
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    out = layer.attention.output
    hidden = out.LayerNorm(out.dense(mixed) + hidden)
    between = layer.intermediate
    wide = between.intermediate_act_fn(between.dense(hidden))
    read: Tensor = layer.output.LayerNorm(layer.output.dense(wide) + hidden)
    return read
