# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Steps of a training with weights sharded by FSDP2 on CPUs: torchrun --nproc-per-node 2 sharded_steps.py ARGUMENTS.

accelerate shards on accelerators alone, so this does what its configuration says: one unit for the vision encoder, one
for each layer of the text model, one for the rest.
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_uhd_v2_hf  # noqa: F401
from llava_uhd_v2_hf.training.collation import ConversationCollator
from llava_uhd_v2_hf.training.conversation_data import ConversationDataset
from llava_uhd_v2_hf.training.data_recipe import ConversationData
from llava_uhd_v2_hf.training.finetune import switch_dropout_off


STEPS, BATCH = 3, 2


def load(checkpoint):
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    switch_dropout_off(model.model.visual.projector.upsampler)
    return model.train()


def shard(model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for unit in (model.model.visual, *model.model.language_model.layers, model):
        fully_shard(unit, mesh=mesh)


def take_steps(model, checkpoint, samples, rank=0, world=1):
    """The losses; a process has the samples of its number, and every `world`-th after it."""
    collate = ConversationCollator(AutoProcessor.from_pretrained(checkpoint))
    dataset = ConversationDataset(ConversationData(source=samples))
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.01)
    losses = []
    for step in range(STEPS):
        batch = [dataset[step * BATCH + number] for number in range(BATCH)]
        tokens = (collate(batch)["labels"][:, 1:] != -100).sum()
        loss = model(**collate(batch[rank::world]), num_items_in_batch=tokens).loss
        (loss * world).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def main(checkpoint, samples, output):
    dist.init_process_group("gloo")
    model = load(checkpoint)
    shard(model)
    losses = take_steps(model, checkpoint, samples, dist.get_rank(), dist.get_world_size())
    dist.all_reduce(losses)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if dist.get_rank() == 0:
        torch.save({"losses": losses, "state": state}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
