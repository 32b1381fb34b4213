# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""`datasets`: images decoded when a row is read, streams, maps over our processor, and going on where one stopped."""

import io
import json
import random

import datasets
import pytest
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from llava_uhd_v2_hf.data.collation import ConversationCollator
from tests.ecosystem.plain_trainer import RecordedTrainer, UserCollator, load, make_arguments, make_conversation
from tests.support.finetune_data import QUESTIONS, draw_image


ROWS, BROKEN = 8, 6  # the image of one row is none


@pytest.fixture(scope="module")
def rows():
    """Columns of questions, answers and encoded images."""
    source, columns = random.Random(0), {"question": [], "answer": [], "image": []}
    for number in range(ROWS):
        image, answers = draw_image(source)
        encoded = io.BytesIO()
        image.crop((0, 0, 112, (112, 56)[number % 2])).save(encoded, "PNG")
        columns["question"].append(QUESTIONS[number % 4])
        columns["answer"].append(answers[number % 4])
        columns["image"].append(b"no image" if number == BROKEN else encoded.getvalue())
    return columns


def write_parquet(rows, folder):
    """Images embedded, in two files."""
    table = datasets.Dataset.from_dict({**rows, "image": [{"bytes": data, "path": None} for data in rows["image"]]})
    table = table.cast_column("image", datasets.Image())
    for half in range(2):
        table.shard(2, half, contiguous=True).to_parquet(folder / f"{half}.parquet")
    return {"path": "parquet", "data_files": [str(folder / f"{half}.parquet") for half in range(2)]}


def write_image_folder(rows, folder):
    with (folder / "metadata.jsonl").open("w") as file:
        for number, (question, answer, data) in enumerate(zip(*rows.values())):
            (folder / f"{number}.png").write_bytes(data)
            file.write(json.dumps({"file_name": f"{number}.png", "question": question, "answer": answer}) + "\n")
    return {"path": "imagefolder", "data_dir": str(folder)}


def write_json(rows, folder):
    """Images named by their files."""
    records = []
    for number, (question, answer, data) in enumerate(zip(*rows.values())):
        (folder / f"{number}.png").write_bytes(data)
        records.append({"question": question, "answer": answer, "image": str(folder / f"{number}.png")})
    (folder / "rows.json").write_text(json.dumps(records))
    text = datasets.Value("string")  # a stream of JSON can't be cast afterwards
    features = datasets.Features({"question": text, "answer": text, "image": datasets.Image()})
    return {"path": "json", "data_files": str(folder / "rows.json"), "features": features}


WRITERS = {"parquet": write_parquet, "imagefolder": write_image_folder, "json": write_json}


@pytest.fixture(scope="module", params=WRITERS)
def description(request, rows, tmp_path_factory):
    """Arguments of `load_dataset`."""
    folder = tmp_path_factory.mktemp(request.param)
    cache = tmp_path_factory.mktemp("cache")
    return {**WRITERS[request.param](rows, folder), "split": "train", "cache_dir": str(cache)}


@pytest.fixture(scope="module")
def parquet(rows, tmp_path_factory):
    """The same for Parquet files alone."""
    cache = tmp_path_factory.mktemp("cache")
    return {**write_parquet(rows, tmp_path_factory.mktemp("parquet")), "split": "train", "cache_dir": str(cache)}


@pytest.fixture(scope="module")
def processor(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint)


def to_conversation(row):
    return make_conversation(row["question"], row["answer"], [row["image"]])


def transform_of(function):
    """A function of a row as one of columns, for `with_transform`."""

    def transform(columns):
        made = [function(dict(zip(columns, row))) for row in zip(*columns.values())]
        return {name: [row[name] for row in made] for name in made[0]}

    return transform


class Encoder:
    """A row -> what the model takes, unpadded."""

    def __init__(self, processor):
        self.collate = UserCollator(processor)

    def __call__(self, row):
        batch = self.collate([to_conversation(row)])
        of_images = ("pixel_values", "image_sizes")
        return {name: batch[name] if name in of_images else batch[name][0] for name in batch}


PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def pad_rows(rows):
    """Rows of `Encoder` -> a batch."""
    batch = {
        name: pad_sequence([torch.as_tensor(row[name]) for row in rows], batch_first=True, padding_value=value)
        for name, value in PADDING.items()
    }
    images = [torch.as_tensor(image) for row in rows for image in row["pixel_values"]]
    sizes = torch.cat([torch.as_tensor(row["image_sizes"]) for row in rows])
    return {**batch, "pixel_values": pad_sequence(images, batch_first=True), "image_sizes": sizes}


def make_trainer(model, folder, data, collator, **settings):
    arguments = make_arguments(folder, per_device_train_batch_size=2, **settings)
    return RecordedTrainer(model, arguments, train_dataset=data, data_collator=collator)


def losses_of(checkpoint, folder, data, collator, steps=2):
    trainer = make_trainer(load(checkpoint, dropout=False), folder, data, collator, max_steps=steps)
    trainer.train()
    assert len(trainer.losses()) == steps
    return trainer.losses()


@pytest.fixture(scope="module")
def expected_losses(rows, tiny_checkpoint, processor, tmp_path_factory):
    """Of two steps, without `datasets`."""
    columns = {**rows, "image": [Image.open(io.BytesIO(data)) for data in rows["image"][:4]]}
    data = [to_conversation(dict(zip(columns, row))) for row in zip(*columns.values())]
    return losses_of(tiny_checkpoint, tmp_path_factory.mktemp("expected"), data, UserCollator(processor))


@pytest.mark.client("datasets", "Parquet, JSON and folders: images decoded when the row is trained on")
def test_images_are_decoded_when_their_row_is_read(description, tiny_checkpoint, processor, tmp_path):
    table = datasets.load_dataset(**description)
    assert len(table) == len(table["question"]) == ROWS
    with pytest.raises(UnidentifiedImageError):
        table[BROKEN]
    conversations = table.with_transform(transform_of(to_conversation))
    model, collator = load(tiny_checkpoint), ConversationCollator(processor)
    trainer = make_trainer(model, tmp_path, conversations, collator, num_train_epochs=1)
    with pytest.raises(UnidentifiedImageError):
        trainer.train()
    assert trainer.losses().keys() >= {1, 2}


DATA = {
    "map": lambda table, encode: table.select(range(4)).map(encode),
    "map in two processes": lambda table, encode: table.select(range(4)).map(encode, num_proc=2),
    "transform": lambda table, encode: table.with_transform(transform_of(encode)),
}


@pytest.mark.client("datasets", "`map` and `with_transform` with our processor: losses as of the images themselves")
@pytest.mark.parametrize("kind", DATA)
def test_processed_rows(kind, parquet, tiny_checkpoint, processor, expected_losses, tmp_path):
    data = DATA[kind](datasets.load_dataset(**parquet), Encoder(processor))
    assert losses_of(tiny_checkpoint, tmp_path, data, pad_rows) == pytest.approx(expected_losses, rel=1e-5)


@pytest.mark.client("datasets", "`map` finds what our processor has made before, and makes it anew for other settings")
def test_map_is_cached(parquet, tiny_checkpoint, processor):
    table = datasets.load_dataset(**parquet).select(range(2))
    first = table.map(Encoder(processor))
    again, other = (AutoProcessor.from_pretrained(tiny_checkpoint) for _ in range(2))
    other.image_processor.max_slices = 1
    assert table.map(Encoder(again)).cache_files == first.cache_files
    assert table.map(Encoder(other)).cache_files != first.cache_files


@pytest.mark.client("datasets", "`streaming=True`: trains on rows as they come, without those behind them")
@pytest.mark.parametrize("encoded", [True, False])
def test_streams(encoded, description, tiny_checkpoint, processor, expected_losses, tmp_path):
    stream = datasets.load_dataset(**description, streaming=True)
    stream = stream.map(Encoder(processor) if encoded else to_conversation)
    collator = pad_rows if encoded else UserCollator(processor)
    assert losses_of(tiny_checkpoint, tmp_path, stream, collator) == pytest.approx(expected_losses, rel=1e-5)
    with pytest.raises(UnidentifiedImageError):
        list(stream)


class Loop:
    """A training without `Trainer`, whose whole state can be kept."""

    def __init__(self, checkpoint, stream):
        self.stream, self.model = stream, load(checkpoint, dropout=False).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def run(self, steps):
        losses = []
        for _, batch in zip(range(steps), DataLoader(self.stream, batch_size=2, collate_fn=pad_rows)):
            loss = self.model(**batch).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.item())
        return losses


@pytest.mark.client("datasets", "`IterableDataset.state_dict`: a training loop goes on with the next row")
def test_a_stream_goes_on_from_its_state(parquet, tiny_checkpoint, processor):
    whole, first, second = (
        Loop(tiny_checkpoint, datasets.load_dataset(**parquet, streaming=True).map(Encoder(processor)))
        for _ in range(3)
    )
    whole = whole.run(3)
    assert first.run(1) == whole[:1]
    second.stream.load_state_dict(json.loads(json.dumps(first.stream.state_dict())))
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert second.run(2) == pytest.approx(whole[1:], rel=1e-6)


@pytest.mark.client("datasets", "`IterableDataset` in Trainer: `resume_from_checkpoint` goes on with the same losses")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_trainer_goes_on_in_a_stream(accumulation, parquet, tiny_checkpoint, processor, tmp_path):
    """With the dropouts of the up-sampler, which must go on too."""
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    settings |= {"gradient_accumulation_steps": accumulation}
    stream = datasets.load_dataset(**parquet, streaming=True).take(BROKEN).repeat(2).map(Encoder(processor))
    whole = make_trainer(load(tiny_checkpoint), tmp_path, stream, pad_rows, **settings)
    whole.train()
    resumed = make_trainer(load(tiny_checkpoint), tmp_path, stream, pad_rows, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert len(resumed.steps.batches) == 2 * accumulation
    assert resumed.losses() == pytest.approx(whole.losses(), rel=1e-6)
