"""The encoder as it is exported: the same function, in fewer steps.

On a device, with one short text at a time, each step costs, however small. Left out is
what makes no difference:

- the bias of the keys adds the same to all scores of a word, which softmax takes away;
- what kind of token it is (there is one kind) moves into the table of places;
- a mask is a number added to each score, without the library's way there.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput


class Lean(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """A BERT encoder of transformers, rewritten; the one given stays as it is.

    Weights keep the names they have there, below `encoder`; `places` is tokens x width.
    """

    def __init__(self, encoder: Any) -> None:
        """Take an encoder; its table of places bounds the window."""
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
    """Return what a layer makes of hidden states; `hide` is added to the scores."""
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
