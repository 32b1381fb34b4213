# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a causal language model must be to be composed with the vision part, and how its logits are made."""

import copy
import inspect

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast


class _HiddenStatesOnly(BaseModelOutputWithPast):
    """Outputs of a base whose every other field, whatever an architecture calls it, is None."""

    def __getattr__(self, name: str) -> None:
        return None


class _FixedHiddenStates(nn.Module):
    """Stands in for a language model's base and returns the same hidden states whatever it is given."""

    def __init__(self, hidden_states: torch.Tensor):
        super().__init__()
        self.hidden_states = hidden_states

    def forward(self, *args, **kwargs) -> BaseModelOutputWithPast:
        return _HiddenStatesOnly(last_hidden_state=self.hidden_states)


def scale_logits(logits: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """The scaling (Granite, Cohere) and soft-capping (Gemma 2) of a text model's logits, as its config says."""
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def _refusal(config: PreTrainedConfig, reason: str) -> ValueError:
    return ValueError(f"The text model `{config.model_type}` can't be composed: {reason}. Choose another one.")


def build_lm_head(config: PreTrainedConfig) -> nn.Linear:
    """A new head for the causal language model of a config, after checking that the model can be composed.

    The model must be one of `AutoModelForCausalLM`: a base that takes `inputs_embeds` and a cache, and
    logits that are a linear head of its hidden states plus at most [`scale_logits`]. The last is checked by running
    the architecture's own head on fixed hidden states, on an instance without memory for its weights.

    Raises:
        ValueError: if the architecture is not of that kind, naming it and what is different.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refusal(config, "`AutoModelForCausalLM` knows no such model")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    base, head = model.base_model, model.get_output_embeddings()
    if base is model or type(base) is not MODEL_MAPPING.get(type(config), None):
        raise _refusal(config, "its base is not the one that `AutoModel` gives")
    parameters = inspect.signature(base.forward).parameters
    if "inputs_embeds" not in parameters:
        raise _refusal(config, "its base doesn't take `inputs_embeds`")
    if "cache" not in parameters and "past_key_values" not in parameters:  # the second before transformers 5.24
        raise _refusal(config, "its base doesn't take a cache of keys and values")
    if getattr(config, "output_router_logits", False):
        raise _refusal(config, "the loss of its router is not computed; set `output_router_logits=False`, or")
    if type(head) is not nn.Linear:
        raise _refusal(config, f"its head is a {type(head).__name__}, not a linear layer")
    if not _has_plain_logits(model, config):
        raise _refusal(config, "its logits are more than a linear head with scaling or soft-capping")
    return nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)


def _has_plain_logits(model: PreTrainedModel, config: PreTrainedConfig) -> bool:
    head = model.get_output_embeddings()
    width = head.in_features
    hidden_states = torch.linspace(-1, 1, 2 * width, device="cpu", dtype=torch.float32).view(1, 2, -1)
    probe = nn.utils.skip_init(nn.Linear, width, 4, bias=False, device="cpu", dtype=torch.float32)
    probe.weight.data = torch.linspace(-2, 3, 4 * width, device="cpu", dtype=torch.float32).view(4, -1)
    model.set_output_embeddings(probe)
    setattr(model, model.base_model_prefix, _FixedHiddenStates(hidden_states))
    try:
        logits = model(inputs_embeds=hidden_states).logits
    except Exception as error:
        raise _refusal(config, f"its logits need more than hidden states ({error})") from error
    return torch.allclose(logits, scale_logits(probe(hidden_states), config), rtol=1e-3)
