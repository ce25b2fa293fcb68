"""The network: a pretrained encoder, one head for the label, one for the entities.

Besides each token, the entity head gets the mean of all tokens and the label
distribution, because the meaning of a word depends on the request: `seven` in an alarm
is a time, on a list it is not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from agent.core.errors import ConfigError


class Network(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """An encoder with heads; a head without classes is left out."""

    def __init__(
        self,
        encoder: Any,
        width: int,
        labels: int,
        tags: int,
        dropout: float,
        levels: int = 1,
    ) -> None:
        """`width` is the encoder's hidden size; `labels` and `tags` may be 0.

        `labels` includes the class for texts out of scope, if there is one.
        """
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.label = nn.Linear(width, labels) if labels else None
        self.mixed = nn.Linear(2 * width + labels, width) if tags else None
        self.tag = nn.Linear(width, tags * levels) if tags else None
        self.levels = levels

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the logits that the network has.

        `label_logits`: batch x classes; `tag_logits`: batch x tokens x levels x tags.
        """
        return self.judge(read(self.encoder, input_ids, attention_mask), attention_mask)

    def judge(self, hidden: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the logits for hidden states, batch x tokens x width."""
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        logits: dict[str, Tensor] = {}
        context = self.dropout(pooled)
        if self.label is not None:
            logits["label_logits"] = self.label(context)
            context = torch.cat([context, logits["label_logits"].softmax(-1)], dim=-1)
        if self.mixed is not None and self.tag is not None:
            around = context.unsqueeze(1).expand(-1, hidden.shape[1], -1)
            mixed = self.mixed(torch.cat([self.dropout(hidden), around], dim=-1))
            gated = nn.functional.gelu(mixed)
            flat = self.tag(self.dropout(gated))
            logits["tag_logits"] = flat.unflatten(-1, (self.levels, -1))
        return logits


class SharedTrunk(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """An encoder and the networks of its members, which share it."""

    def __init__(self, encoder: Any, members: Mapping[str, Network]) -> None:
        """Take networks that were made with `encoder`."""
        super().__init__()
        self.encoder = encoder
        self.members = nn.ModuleDict(members)

    def member(self, name: str) -> Network:
        """Return the network of a member."""
        return cast("Network", self.members[name])


def read(encoder: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the hidden states of the tokens: batch x tokens x width."""
    hidden: Tensor = encoder(
        input_ids=input_ids, attention_mask=attention_mask
    ).last_hidden_state
    return hidden


def open_encoder(
    folder: Path, rows: Sequence[int], dropout: float, layers: int | None = None
) -> Any:
    """Load the first `layers` of a pretrained encoder, with `rows` of its word table.

    Raises ConfigError if it is no BERT: workshop/export/lean.py handles no other.
    """
    transformers_log: Any = logging  # its output would disturb our progress bars
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind != "bert":
        raise ConfigError(f"{folder}: the encoder must be a BERT, this is a {kind}")
    encoder = AutoModel.from_pretrained(
        folder,
        add_pooling_layer=False,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    words = encoder.get_input_embeddings().weight.detach()[list(rows)]
    encoder.set_input_embeddings(nn.Embedding(len(rows), words.shape[1], _weight=words))
    encoder.config.vocab_size = len(rows)
    if layers is not None and layers < encoder.config.num_hidden_layers:
        encoder.encoder.layer = encoder.encoder.layer[:layers]
        encoder.config.num_hidden_layers = layers
    return encoder


def shorten(encoder: Any, tokens: int) -> None:
    """Cut the position table after `tokens` tokens, the window; in place."""
    embeddings = encoder.embeddings
    kept = embeddings.position_embeddings.weight.detach()[:tokens]
    embeddings.position_embeddings = nn.Embedding(
        len(kept), kept.shape[1], _weight=kept
    )
    embeddings.register_buffer(
        "position_ids", embeddings.position_ids[:, :tokens], persistent=False
    )
    embeddings.register_buffer(
        "token_type_ids", embeddings.token_type_ids[:, :tokens], persistent=False
    )
    encoder.config.max_position_embeddings = len(kept)
