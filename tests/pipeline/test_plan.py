import pytest
from conftest import listing_of

from pipeline.errors import InputError
from pipeline.job.plan import Settings, plan_shards


def test_every_cell_is_in_one_shard_once(source):
    listing = listing_of(source)
    shards = list(plan_shards(listing, Settings(cells_per_shard=5), "source"))
    planned = [cell for shard in shards for cell in shard.cells]
    assert sorted(planned) == list(listing.cells)
    assert {shard.split for shard in shards} == {"train", "validation", "test"}
    sizes = [len(shard.cells) for shard in shards if shard.split == "train"]
    assert max(sizes) <= 5
    assert max(sizes) - min(sizes) <= 1


def test_pinned_order(source):
    """Golden: changing it changes every data set, so it needs a new VERSION and a release note."""
    shards = list(plan_shards(listing_of(source), Settings(cells_per_shard=5), "source"))
    assert [(shard.file_name.removeprefix("tfds_malaria-"), len(shard.cells)) for shard in shards] == [
        ("train.tfrecord-00000-of-00004", 5),
        ("train.tfrecord-00001-of-00004", 5),
        ("train.tfrecord-00002-of-00004", 5),
        ("train.tfrecord-00003-of-00004", 5),
        ("validation.tfrecord-00000-of-00001", 4),
        ("test.tfrecord-00000-of-00003", 4),
        ("test.tfrecord-00001-of-00003", 4),
        ("test.tfrecord-00002-of-00003", 4),
    ]
    assert [cell.filename.replace("thinF_IMG_20150619_114756a", "") for cell in shards[0].cells] == [
        "Uninfected/C6P6_cell_3.png",
        "Uninfected/C6P6_cell_2.png",
        "Parasitized/C4P4_cell_2.png",
        "Uninfected/C4P4_cell_3.png",
        "Parasitized/C8P8_cell_2.png",
    ]


def test_settings_decide(source):
    listing = listing_of(source)
    shards = list(plan_shards(listing, Settings(), "s"))
    assert shards == list(plan_shards(listing, Settings(), "s"))
    assert shards != list(plan_shards(listing, Settings(split_seed=1), "s"))


def test_names_without_a_patient(source):
    listing = listing_of(source, patient_regex="(X)")
    with pytest.raises(InputError, match=r"36 of 36 file names .* tell no patient, .* --patient_regex=.*by_cell"):
        plan_shards(listing, Settings(patient_regex="(X)"), "source")
    assert list(plan_shards(listing, Settings(config="by_cell", patient_regex="(X)"), "source"))
