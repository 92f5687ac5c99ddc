import gc
import logging
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.data import pictures as picture_module
from rulepatch.data import stream as streams
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.errors import FolderError, ImageError
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess

PREPROCESS = Preprocess((8, 8))


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch):
    monkeypatch.setattr(streams, "threads_pay", lambda: True)
    yield
    assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]


def pictures(count):
    colours = np.random.default_rng(count).integers(0, 256, (count, 3))
    return ImageSet(tuple(Picture(Image.new("RGB", (9, 8), tuple(map(int, c))), i) for i, c in enumerate(colours)), "x")


@pytest.mark.parametrize("progress", [False, True])
def test_a_stream_for_a_model_is_prepared_as_the_model_is(progress):
    model = Classifier(torch.nn.Flatten(), Preprocess((8, 6)), [str(i) for i in range(144)])
    stream, images = ImageStream.of(model, pictures(70), "seen", progress=progress), pictures(70)
    plain = ImageStream(images, model.preprocess, batch_size=model.batch_size)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(stream, plain, strict=True))
    assert stream.progress == ("seen" if progress else None) and ImageStream.of(model, images).progress is None


@pytest.fixture
def folder_of(tmp_path):
    """A set of images on disk, some of which are no images."""

    def build(count, broken=()):
        paths = [tmp_path / f"{i:04}.bmp" for i in range(count)]
        for i, path in enumerate(paths):
            if i in broken:
                path.write_bytes(b"BM no picture")
            else:
                Image.new("RGB", (8, 8), (i % 256, i // 256, 0)).save(path)
        return ImageSet(tuple(Picture(path) for path in paths), "the folder")

    return build


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 2), (6, 3), (3, 32), (40, 7), (7, 1)])
def test_every_picture_comes_once_in_order_in_batches_of_the_size(count, size):
    images = pictures(count)
    batches = list(ImageStream(images, PREPROCESS, batch_size=size))
    assert [len(batch.pictures) for batch in batches] == [size] * (count // size) + [count % size] * (count % size > 0)
    assert [picture for batch in batches for picture in batch.pictures] == list(images.pictures)
    for batch in batches:
        alone = [PREPROCESS.pixels(picture.source) for picture in batch.pictures]
        assert torch.equal(batch.pixels, torch.stack(alone))
        assert batch.pixels.shape == (len(batch.pictures), 3, 8, 8)
        assert batch.pixels.dtype == torch.float32


def test_order_does_not_depend_on_which_picture_is_read_first(folder_of, monkeypatch):
    def slowly(path, **options):
        time.sleep(0.01 if int(path.stem) % 3 == 0 else 0)
        return read_image(path, **options)

    monkeypatch.setattr(picture_module, "read_image", slowly)
    images = folder_of(20)
    seen = [picture for batch in ImageStream(images, PREPROCESS, batch_size=4) for picture in batch.pictures]
    assert seen == list(images.pictures)


def test_a_stream_can_be_run_again(folder_of, caplog):
    stream = ImageStream(folder_of(100, broken={3}), PREPROCESS, batch_size=33)
    runs = [torch.cat([batch.pixels for batch in stream]) for _ in range(2)]
    assert torch.equal(*runs)
    assert len(stream.skipped) == 1


def test_one_unreadable_picture_among_a_hundred_is_named_counted_and_skipped(folder_of, caplog):
    images = folder_of(100, broken={41})
    stream = ImageStream(images, PREPROCESS, batch_size=10)
    with caplog.at_level(logging.WARNING, "rulepatch"):
        batches = list(stream)
    assert [len(batch.pictures) for batch in batches] == [10] * 9 + [9]
    kept = [picture for batch in batches for picture in batch.pictures]
    assert kept == [picture for i, picture in enumerate(images.pictures) if i != 41]
    assert stream.skipped == [images.pictures[41]]
    (record,) = caplog.records
    assert "0041.bmp" in record.getMessage()
    assert torch.cat([batch.pixels for batch in batches])[41, 0, 0, 0] == 42 / 255


@pytest.mark.parametrize(
    ("count", "allowed"), [(1, 0), (99, 0), (100, 1), (199, 1), (200, 2)], ids=lambda number: str(number)
)
def test_more_than_one_in_a_hundred_stops_the_run(count, allowed, folder_of):
    images = folder_of(count, broken=range(allowed))
    stream = ImageStream(images, PREPROCESS)
    assert sum(len(batch.pictures) for batch in stream) == count - allowed
    assert len(stream.skipped) == allowed

    images = folder_of(count, broken=range(allowed + 1))
    with pytest.raises(FolderError, match=f"at most {allowed} unreadable .* {count} of the folder") as caught:
        list(ImageStream(images, PREPROCESS))
    assert f"{allowed:04}.bmp" in str(caught.value)


def test_a_file_that_vanishes_is_unreadable(folder_of):
    images = folder_of(100)
    images.pictures[7].source.unlink()
    stream = ImageStream(images, PREPROCESS)
    assert sum(len(batch.pictures) for batch in stream) == 99
    assert stream.skipped == [images.pictures[7]]


def test_on_few_cores_the_same_pictures_are_read_in_between(folder_of, monkeypatch):
    images = folder_of(230, broken=[7, 100])
    beside = list(ImageStream(images, PREPROCESS, batch_size=4))
    monkeypatch.setattr(streams, "threads_pay", lambda: False)
    readers = set()

    def reading(path, **options):
        readers.add(threading.current_thread())
        return read_image(path, **options)

    monkeypatch.setattr(picture_module, "read_image", reading)
    between = list(ImageStream(images, PREPROCESS, batch_size=4))
    assert [batch.pictures for batch in between] == [batch.pictures for batch in beside]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(beside, between, strict=True))
    assert readers == {threading.current_thread()}


def test_only_so_many_pictures_are_read_ahead(folder_of, monkeypatch):
    lock, begun, used, most = threading.Lock(), 0, 0, 0

    def counted(path, **options):
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - used)
        return read_image(path, **options)

    monkeypatch.setattr(picture_module, "read_image", counted)
    for batch in ImageStream(folder_of(300), PREPROCESS, batch_size=4):
        time.sleep(0.002)  # a slow consumer: nothing but the bound holds the readers back
        used += len(batch.pictures)
    assert used == begun == 300
    assert most <= 4 + 2 * 4 + 1  # the batch in use, the images ahead, the one whose turn it is
    assert most > 4  # reading does run beside computing


def test_pictures_are_read_by_other_threads_while_the_consumer_works(folder_of, monkeypatch):
    ahead = threading.Event()

    def reading(path, **options):
        if path.stem == "0003":
            ahead.set()
        return read_image(path, **options)

    monkeypatch.setattr(picture_module, "read_image", reading)
    stream = iter(ImageStream(folder_of(6), PREPROCESS, batch_size=2))
    next(stream)
    assert ahead.wait(timeout=600)
    stream.close()


@pytest.fixture
def begun(monkeypatch):
    """The images whose reading was begun, each of which takes a while."""
    found = []

    def read(path, **options):
        found.append(path)
        time.sleep(0.005)
        return read_image(path, **options)

    monkeypatch.setattr(picture_module, "read_image", read)
    return found


def test_reading_ends_when_the_consumer_stops_early(folder_of, begun):
    for _ in ImageStream(folder_of(400), PREPROCESS, batch_size=50):
        break
    assert len(begun) < 100  # 150 had been asked for


def test_reading_ends_when_the_consumer_raises(folder_of, begun):
    with pytest.raises(KeyError, match="mine"):
        for _ in ImageStream(folder_of(400), PREPROCESS, batch_size=50):
            raise KeyError("mine")
    gc.collect()  # the traceback held the stream
    assert len(begun) < 100


def test_threads_end_when_too_many_cannot_be_read(folder_of):
    with pytest.raises(FolderError):
        list(ImageStream(folder_of(150, broken=range(10, 140)), PREPROCESS, batch_size=2))


def test_a_defect_of_our_own_is_no_unreadable_picture(folder_of, monkeypatch):
    def defect(path, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(picture_module, "read_image", defect)
    with pytest.raises(ZeroDivisionError):
        list(ImageStream(folder_of(300), PREPROCESS))


def test_an_unreadable_picture_that_waits_is_not_raised_before_its_turn(folder_of, monkeypatch):
    def failing(path, **options):
        if path.stem == "0005":
            raise ImageError("number five")
        return read_image(path, **options)

    monkeypatch.setattr(picture_module, "read_image", failing)
    stream = iter(ImageStream(folder_of(8), PREPROCESS, batch_size=2))
    assert [len(next(stream).pictures), len(next(stream).pictures)] == [2, 2]
    with pytest.raises(FolderError):
        next(stream)


def test_the_progress_bar_stays_off_files_and_pipes(capfd):
    list(ImageStream(pictures(3), PREPROCESS, progress="statistics"))
    assert capfd.readouterr() == ("", "")
