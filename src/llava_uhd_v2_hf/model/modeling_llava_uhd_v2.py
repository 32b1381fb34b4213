# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LLaVA-UHD v2: vision encoder, token layout and causal language model.

Shape letters: i images, b batch, n tokens of the prompt, n_i tokens of image i, d text width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .geometry_llava_uhd_v2 import SlicePlan, num_image_tokens, token_layout
from .text_llava_uhd_v2 import build_lm_head, scale_logits
from .vision_llava_uhd_v2 import LlavaUhdV2VisionEncoder


# transformers 5.24 renamed the cache in arguments and outputs; before, the old name is taken without a warning
CACHE_NAME = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"
accept_past_key_values = deprecate_kwarg(
    "past_key_values", version="5.40.0" if CACHE_NAME == "cache" else "5.0.0", new_name="cache"
)

# tower and projector, by their names in a model without and with a head
UNQUANTISED = r"(?:model\.)?visual"


@dataclass
class LlavaUhdV2ModelOutputWithPast(BaseModelOutputWithPast):
    """
    Outputs of [`LlavaUhdV2Model`].

    Args:
        last_hidden_state: (b, n, d).
        cache: with `use_cache`; `past_key_values` before transformers 5.24.
        image_outputs: what [`~LlavaUhdV2Model.get_image_features`] returns; None without images.
    """

    image_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class LlavaUhdV2CausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Outputs of [`LlavaUhdV2ForConditionalGeneration`].

    Args:
        loss: next-token cross-entropy over labels other than -100, with `labels`.
        logits: (b, n, vocabulary), of the last positions only with `logits_to_keep`.
        cache: with `use_cache`; `past_key_values` before transformers 5.24.
        image_outputs: what [`~LlavaUhdV2Model.get_image_features`] returns; None without images.
    """

    image_outputs: BaseModelOutputWithPooling | None = None


class LlavaUhdV2PreTrainedModel(PreTrainedModel):
    """What the model with a head and the one without have in common: initial weights, and folding the projector's."""

    config: LlavaUhdV2Config
    config_class = LlavaUhdV2Config
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlavaUhdV2VisionEncoder"]
    _skip_keys_device_placement = [CACHE_NAME]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _initialize_weights(self, module: nn.Module, *args, **kwargs):
        """Initialises the projector as a whole; transformers skips modules without weights of their own.

        Loaded weights stay, however a `reset_parameters` writes.
        """
        if module is not self.base_model.visual.projector:
            return super()._initialize_weights(module, *args, **kwargs)
        if getattr(module, "_is_hf_initialized", False):
            return None
        module._is_hf_initialized = True
        tensors = [*module.parameters(), *module.buffers()]
        loaded = [tensor for tensor in tensors if getattr(tensor, "_is_hf_initialized", False)]
        if len(loaded) < len(tensors):
            values = [tensor.clone() for tensor in loaded]
            module.reset_parameters()
            with torch.no_grad():
                for tensor, value in zip(loaded, values, strict=True):
                    tensor.copy_(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialises the head, or a new one; the projector and the sub-models initialise themselves."""
        inside = self.base_model.visual.projector.modules()
        if isinstance(module, nn.Linear) and not any(module is part for part in inside):
            std = self.config.projector_config.initializer_range
            init.trunc_normal_(module.weight, std=getattr(self.config.text_config, "initializer_range", std))
            if module.bias is not None:
                init.zeros_(module.bias)

    def post_init(self):
        """Gathers what the sub-models declare, as in every model; keeps tower and projector from being quantised."""
        super().post_init()
        if getattr(self.config, "quantization_config", None) is not None:
            # what is named here quantisers skip
            self._keep_in_fp32_modules.add(UNQUANTISED)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        """Without tower and projector: they are kept from quantisers alone, not from float16."""
        plan = super()._get_dtype_plan(dtype)
        plan.pop(UNQUANTISED, None)
        return plan

    def fold_projector(self):
        """Keeps the projector's products of weights across calls: faster inference, for 0.13 GB at the released size.

        They are used where no gradients are needed and are no part of a saved model. `unfold_projector()`, `train()`,
        a change of dtype or device and any change of the weights drop them.

        Raises:
            ValueError: if the projector has nothing to fold, the model trains, or the projector has layers that must
                be called: wrapped by LoRA, quantised, sharded, hooked or off-loaded.
        """
        projector = self.base_model.visual.projector
        if not hasattr(projector, "fold"):
            kind = self.config.projector_config.projector_type
            raise ValueError(f"A projector of type `{kind}` has no products of weights to keep; leave it unfolded.")
        projector.fold()

    def unfold_projector(self):
        """Drops what [`~LlavaUhdV2PreTrainedModel.fold_projector`] keeps."""
        projector = self.base_model.visual.projector
        if hasattr(projector, "unfold"):
            projector.unfold()


def processes_work_together() -> bool:
    """Whether there is a process group; some builds of PyTorch have none at all."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class LlavaUhdV2Model(LlavaUhdV2PreTrainedModel):
    """The vision encoder and the base of the language model, without its head."""

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__(config)
        self.visual = LlavaUhdV2VisionEncoder(config)
        self.language_model = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
        self._can_compile_fullgraph = self.language_model._can_compile_fullgraph
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | list[torch.Tensor],
        image_sizes: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Encodes images into the tokens that the language model reads (paper 3.2 to 3.4).

        Args:
            pixel_values: (i, p_max, 3 * patch * patch), or a list of such rows of unequal length: the patches of each
                image, view by view, as the image processor packs them.
            image_sizes: (i, 6), the slice plan of each image as the image processor returns it.
            kwargs: `output_hidden_states` and `output_attentions`, whether to return the tower's (the weights with the
                `eager` implementation); the rest is handed to the tower's layers.

        Returns:
            `pooler_output`: a list with one (n_i, d) tensor an image, separators included, in the order in which they
            stand in the prompt. `last_hidden_state`: (i, p_max, c), the tower's features laid out like `pixel_values`;
            `hidden_states` likewise, one for the embeddings and one for each layer that runs.

        Raises:
            ValueError: if `image_sizes` is missing or is no slice plan, or the patches don't fit it.
        """
        plans = self._read_plans(pixel_values, image_sizes)
        dtype = self.visual.projector.dtype
        # no parameters of the method: `generate` would take them away from the language model
        requested = {key: kwargs.pop(key, None) for key in ("output_hidden_states", "output_attentions")}
        zero3 = self.training and is_deepspeed_zero3_enabled()
        encoded = self.visual(
            [row.to(dtype) for row in pixel_values],
            plans,
            # DeepSpeed adds up a unit's gradients over the processes when that of its input is there
            torch.zeros((), dtype=dtype, device=pixel_values[0].device, requires_grad=True) if zero3 else None,
            **{
                key: getattr(self.config.vision_config, key) if value is None else value
                for key, value in requested.items()
            },
            **kwargs,
        )
        separators = self._embed_separators(encoded.tokens.device).to(encoded.tokens)
        images = []
        grids = [self._token_grids(plan) for plan in plans]
        counts = [
            plan.num_slices * math.prod(grid) + math.prod(overview) for plan, (grid, overview) in zip(plans, grids)
        ]
        for plan, (grid, overview), tokens in zip(plans, grids, encoded.tokens.split(counts), strict=True):
            order = token_layout(plan.grid, grid, self.config.token_layout, overview)
            # separators are counted from the end: -1 is the row separator, -2 the slice separator
            images.append(torch.cat([tokens, separators])[torch.tensor(order, device=tokens.device)])
        return BaseModelOutputWithPooling(
            last_hidden_state=encoded.features,
            pooler_output=images,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _token_grids(self, plan: SlicePlan) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.config.projector_config.token_grids(plan, self.visual.patch_size)

    def _embed_separators(self, device: torch.device) -> torch.Tensor:
        """Embeddings of the slice and the row separator: (2, d)."""
        ids = torch.tensor([self.config.slice_separator_id, self.config.row_separator_id], device=device)
        return self.get_input_embeddings()(ids)

    def _read_plans(
        self, pixel_values: torch.Tensor | list[torch.Tensor], image_sizes: torch.Tensor | None
    ) -> list[SlicePlan]:
        if image_sizes is None:
            raise ValueError("`pixel_values` needs `image_sizes`, the slice plans that the image processor returns.")
        patch_size = self.visual.patch_size
        plans = [SlicePlan.from_image_size(row, patch_size) for row in torch.as_tensor(image_sizes).tolist()]
        if len(plans) != len(pixel_values):
            raise ValueError(f"`pixel_values` has {len(pixel_values)} images, `image_sizes` has {len(plans)} rows.")
        for image, (row, plan) in enumerate(zip(pixel_values, plans, strict=True)):
            patches, numbers = plan.num_patches(patch_size), 3 * patch_size**2
            if row.ndim != 2 or row.shape[0] < patches or row.shape[1] != numbers:
                raise ValueError(
                    f"Image {image} has `pixel_values` of shape {tuple(row.shape)}, but its row of `image_sizes` "
                    f"names {patches} patches of {numbers} numbers."
                )
        return plans

    def find_image_tokens(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Where the image tokens stand, by one of the two: (b, n)."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id
        token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """Where the image tokens stand: (b, n, 1).

        Raises:
            ValueError: if the prompt has more or fewer image tokens than the images, with both counts.
        """
        mask = self.find_image_tokens(input_ids, inputs_embeds)
        torch_compilable_check(
            mask.sum() == len(image_features),
            lambda: (
                f"The prompts have {mask.sum()} image tokens, but the images make {len(image_features)}. Use the "
                "processor that belongs to the model, and don't cut the prompt."
            ),
        )
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    def group_images(self, image_sizes: torch.Tensor, counts: list[int], times: int) -> list[int]:
        """The images' numbers, those of each prompt `times` times, one group after the other.

        Args:
            image_sizes: (i, 6), the slice plans.
            counts: image tokens of each prompt.
            times: how often each prompt is repeated.
        """
        patch_size, layout = self.visual.patch_size, self.config.token_layout
        tokens = []
        for row in torch.as_tensor(image_sizes).tolist():
            plan = SlicePlan.from_image_size(row, patch_size)
            grid, overview = self._token_grids(plan)
            tokens.append(num_image_tokens(plan, query_grid=grid, overview_grid=overview, layout=layout))
        order, image = [], 0
        for count in counts:
            group = []
            while count > 0 and image < len(tokens):
                group.append(image)
                count -= tokens[image]
                image += 1
            order += group * times
        return order

    def _refuse_image_tokens(self, input_ids: torch.Tensor | None):
        """Raises a ValueError if a prompt has image tokens while there is no image; skips the steps of decoding."""
        if input_ids is not None and input_ids.shape[1] > 1:
            mask = input_ids == self.config.image_token_id
            torch_compilable_check(
                ~mask.any(),
                lambda: f"The prompts have {mask.sum()} image tokens, but no image was passed as `pixel_values`.",
            )

    def _touch_vision(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Adds zero, by way of an image of one patch, weighted zero.

        A batch without images then gives every trained parameter a gradient (of zero) and, where the model is
        sharded, takes part in the same collectives as the batches with images on other ranks.
        """
        patch_size = self.visual.patch_size
        pixel_values = inputs_embeds.new_zeros(1, 1, 3 * patch_size**2)
        image_sizes = torch.tensor([SlicePlan((0, 0), (0, 0), (patch_size, patch_size)).to_image_size()], device="cpu")
        [tokens] = self.get_image_features(pixel_values, image_sizes, return_dict=True).pooler_output
        return inputs_embeds + 0.0 * tokens.to(inputs_embeds).nan_to_num(0.0, 0.0, 0.0).sum()

    @merge_with_config_defaults
    @can_return_tuple
    @accept_past_key_values
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        image_sizes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LlavaUhdV2ModelOutputWithPast:
        """
        Args:
            input_ids: (b, n), each image as its run of `config.image_token_id`.
            pixel_values: (i, p_max, 3 * patch * patch), see [`~LlavaUhdV2Model.get_image_features`].
            image_sizes: (i, 6), the slice plans.
            attention_mask: (b, n), 1 for tokens and 0 for padding.
            position_ids: (b, n).
            cache: that of earlier tokens; `past_key_values` before transformers 5.24.
            inputs_embeds: (b, n, d), instead of `input_ids`.
            use_cache: whether to return a cache.
            mm_encoder_outputs: `{"image": get_image_features(...)}`, instead of `pixel_values`.
            kwargs: handed to the language model.

        Raises:
            ValueError: if inputs contradict each other, or image tokens and images differ in number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if pixel_values is not None and mm_encoder_outputs:
            raise ValueError("Pass either `pixel_values` or `mm_encoder_outputs`, not both.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        image_outputs = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and len(pixel_values):
            image_outputs = self.get_image_features(pixel_values, image_sizes, return_dict=True)
        if image_outputs is not None:
            image_features = torch.cat(list(image_outputs.pooler_output))
            image_features = image_features.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)
        else:
            self._refuse_image_tokens(input_ids)
            # vLLM too has processes, but embeds prompts itself, and no process of it waits for the images of another
            may_be_sharded = input_ids is not None and processes_work_together()
            # last the length of a static cache, on which compiled code can't branch
            if (self.training or may_be_sharded) and (cache is None or cache.get_seq_length() == 0):
                inputs_embeds = self._touch_vision(inputs_embeds)

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        return LlavaUhdV2ModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=image_outputs,
        )


class LlavaUhdV2ForConditionalGeneration(LlavaUhdV2PreTrainedModel, GenerationMixin):
    """
    LLaVA-UHD v2: reads images and text and generates text.

    Args:
        config ([`LlavaUhdV2Config`]): of the whole model.

    Raises:
        ValueError: if the text model is of an architecture that can't be composed.
    """

    model: LlavaUhdV2Model
    lm_head: nn.Linear
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__(config)
        lm_head = build_lm_head(config.text_config)
        self.model = LlavaUhdV2Model(config)
        self.lm_head = lm_head
        self._can_compile_fullgraph = self.model._can_compile_fullgraph
        # an image token stands for an image's features: it can be read, but not be said
        self.generation_config.suppress_tokens = [config.image_token_id]
        self._tied_weights_keys = {"lm_head.weight": self._input_embedding_name()}
        self.post_init()

    def _input_embedding_name(self) -> str:
        embeddings = self.model.language_model.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embeddings)
        return f"{name}.weight"

    def get_output_embeddings(self) -> nn.Linear:
        """The head that makes logits of hidden states."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        """Puts another head in its place, as transformers does to resize the vocabulary."""
        self.lm_head = new_embeddings

    def get_image_features(
        self,
        pixel_values: torch.Tensor | list[torch.Tensor],
        image_sizes: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes images into the tokens that the language model reads, see [`~LlavaUhdV2Model.get_image_features`].

        Args:
            pixel_values: (i, p_max, 3 * patch * patch), or a list of rows of unequal length.
            image_sizes: (i, 6), the slice plans.
            kwargs: handed to [`~LlavaUhdV2Model.get_image_features`].

        Returns:
            `pooler_output`: a list with one (n_i, d) tensor an image.
        """
        return self.model.get_image_features(pixel_values, image_sizes, **kwargs)

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Lets `forward` encode the images where processes work together: there, those without any take part."""
        pixel_values = model_kwargs.get("pixel_values")
        if pixel_values is None or not len(pixel_values):
            model_kwargs = {
                key: model_kwargs[key] for key in model_kwargs if key not in ("pixel_values", "image_sizes")
            }
        if processes_work_together():
            return model_kwargs
        return super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """As transformers', and repeats images that `forward` is to encode, all of a prompt at a time."""
        images = {key: kwargs.pop(key) for key in ("pixel_values", "image_sizes") if key in kwargs}
        if images and expand_size > 1:
            ids = input_ids if input_ids is not None and input_ids.numel() else None
            marks = self.model.find_image_tokens(ids, kwargs.get("inputs_embeds")).sum(-1).tolist()
            order = self.model.group_images(images["image_sizes"], marks, expand_size)
            images = {
                key: value[order] if isinstance(value, torch.Tensor) else [value[index] for index in order]
                for key, value in images.items()
            }
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs | images

    @merge_with_config_defaults
    @can_return_tuple
    @accept_past_key_values
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        image_sizes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LlavaUhdV2CausalLMOutputWithPast:
        """
        Args:
            input_ids: (b, n), each image as its run of `config.image_token_id`.
            pixel_values: (i, p_max, 3 * patch * patch), see [`~LlavaUhdV2Model.get_image_features`].
            image_sizes: (i, 6), the slice plans.
            attention_mask: (b, n), 1 for tokens and 0 for padding.
            position_ids: (b, n).
            cache: that of earlier tokens; `past_key_values` before transformers 5.24.
            inputs_embeds: (b, n, d), instead of `input_ids`.
            labels: (b, n), -100 where nothing is predicted.
            use_cache: whether to return a cache.
            logits_to_keep: the last positions (a number, 0 for all) or the positions (a tensor) that get logits.
            mm_encoder_outputs: `{"image": get_image_features(...)}`, instead of `pixel_values`.
            kwargs: handed to the language model and the loss function.

        Raises:
            ValueError: if inputs contradict each other, or image tokens and images differ in number.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        slice_indices = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = scale_logits(self.lm_head(outputs.last_hidden_state[:, slice_indices]), self.config.text_config)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return LlavaUhdV2CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=outputs.image_outputs,
        )


__all__ = ["LlavaUhdV2ForConditionalGeneration", "LlavaUhdV2Model", "LlavaUhdV2PreTrainedModel"]
