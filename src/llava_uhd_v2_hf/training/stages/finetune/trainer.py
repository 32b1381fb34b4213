# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `Trainer` for fine-tuning: its optimiser, its order of samples, what it logs and what it saves."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.utils.data import DataLoader, IterableDataset, Sampler
from transformers import TrainerControl
from transformers.utils import CONFIG_NAME, logging

from ....data.collation import ConversationCollator
from ....data.lengths import ModalityLengthSampler
from ....data.streams import ConversationStream
from ....model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ...evaluation import HeldOutAnswers
from ...parameter_groups import PartPlan, apply_plan, optimizer_groups, trained_names
from ...pushes import TrainingApi, pushing_with
from ...stage_trainer import StageTrainer


logger = logging.get_logger(__name__)

LEARNING_RATE = "learning_rate"  # of the first part; behind it, the name of a part


class NamingCollator(ConversationCollator):
    """A collator whose batches have the `names` of their samples too, for [`StageTrainer`]."""

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As [`ConversationCollator`]."""
        return {**super().__call__(samples), "names": [sample["name"] for sample in samples]}


class FinetuneTrainer(StageTrainer):
    """Trains part by part, logs their learning rates and what the collator drops, and evaluates by answers.

    Args:
        args, kwargs: of `Trainer`; the collator is a [`NamingCollator`].
        plan: how each part is trained.
        processor: saved with the model.
        partial: whether checkpoints hold the trained weights alone. They don't load as models then, and resume only
            from the model that the training began with.
        lengths: (n, 2), text and image tokens of every sample, for batches of about one length.
        held_out: for evaluation.
    """

    data_collator: NamingCollator
    label_smoother: Callable[..., torch.Tensor] | None

    def __init__(
        self,
        *args: Any,
        plan: Mapping[str, PartPlan],
        processor: LlavaUhdV2Processor,
        partial: bool,
        lengths: np.ndarray | None = None,
        held_out: HeldOutAnswers | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, eval_dataset=held_out, **kwargs)
        self.plan, self.processor, self.lengths = plan, processor, lengths
        self.hub_api = TrainingApi(self.args.output_dir)
        self.parts_of_groups: list[str] = []  # of the optimiser
        self.learning_rates: dict[str, float] = {}
        if self.label_smoother is not None:  # Trainer shifts labels only for the classes that it knows by name
            self.label_smoother = functools.partial(self.label_smoother, shift_labels=True)
        self.partial = partial and not isinstance(self.model, PeftModel)
        if self.partial:
            trained = set(trained_names(self.model))
            self.model._keys_to_ignore_on_save = [name for name in self.model.state_dict() if name not in trained]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """As `Trainer.create_optimizer`, with the parts' learning rates and weight decays."""
        model = self.model if model is None else model
        apply_plan(model, self.plan)  # again: PEFT switches gradients on when it loads a checkpoint
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        groups = optimizer_groups(model, self.plan, set(self.get_decay_parameter_names(model)))
        self.parts_of_groups = [part for part, _ in groups]
        self.optimizer_cls_and_kwargs = (kind, settings | {"params": list(groups.values())})
        return super().create_optimizer(model)

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),  # its own, so that after a resume the dropouts are those of a whole training
        )

    def _get_train_sampler(self, *args: Any) -> Sampler | None:
        if self.lengths is None:
            return super()._get_train_sampler(*args)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        step = self.get_total_train_batch_size(self.args)
        has_images = (self.lengths[:, 1] > 0).tolist()
        return ModalityLengthSampler(self.lengths.sum(1).tolist(), has_images, step, seed)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], torch.Tensor | int | None]:
        """As `Trainer.get_batch_samples`; a step of which every sample was dropped has a loss of 0, not 0 / 0."""
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        return batches, None if tokens is None else torch.as_tensor(tokens).clamp(min=1)

    def _get_learning_rate(self) -> float:
        """As `Trainer._get_learning_rate`, which is called before the rates change; keeps that of every part."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.learning_rates = dict(zip(self.parts_of_groups, rates))
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts' learning rates, and the samples that collator and stream have dropped, of all processes."""
        if "loss" in logs:
            logs |= {f"{LEARNING_RATE}_{part}": rate for part, rate in self.learning_rates.items()}
            counts = self.data_collator.counts.totals()
            if isinstance(self.train_dataset, ConversationStream):
                counts |= self.train_dataset.counts.totals()
            totals = self.accelerator.reduce(torch.tensor(list(counts.values()), device=self.args.device))
            logs |= {f"dropped_{name}": total for name, total in zip(counts, totals.tolist()) if total}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Exact match of answers to held-out questions."""
        with self.compute_loss_context_manager():
            exact_match = self.eval_dataset.exact_match(self.model, self.accelerator)
        metrics = {f"{metric_key_prefix}_exact_match": exact_match}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save and self.partial:
            (folder / CONFIG_NAME).unlink()  # without which nothing takes it for a model
        elif self.args.should_save:
            self.processor.save_pretrained(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As `Trainer._push_from_checkpoint`, with the processor, so that what is pushed loads, and no other files."""
        self._warn_of_failed_pushes()
        if self.args.should_save and not self.partial:
            self.processor.save_pretrained(self.args.output_dir)
        with pushing_with(self.hub_api):
            super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._warn_of_failed_pushes()

    def _warn_of_failed_pushes(self) -> None:
        """Trainer pushes in the background and never looks at what came of it."""
        for job in getattr(getattr(self, "push_in_progress", None), "jobs", ()):
            if job.done() and (error := job.exception()):
                logger.warning(f"A checkpoint was not pushed to {self.hub_model_id}; training continues. {error}")
