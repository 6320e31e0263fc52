"""The options of a checkpoint location in a settings file."""

import pytest

from streams.checkpoint.location import Location
from streams.core.errors import SettingsError
from streams.settings import load
from tests.checkpoint.support import s3_options


def test_they_are_a_table_and_their_secrets_are_not_shown(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[checkpoint_options]\nregion = "eu-west-1"\nsecret_access_key = "hidden"\n')
    settings = load({}, {}, file)
    assert settings.checkpoint_options == {"region": "eu-west-1", "secret_access_key": "hidden"}
    assert "eu-west-1" in repr(settings)
    assert "hidden" not in repr(settings)


def test_a_text_is_refused(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('checkpoint_options = "region"\n')
    with pytest.raises(SettingsError, match="is not a table"):
        load({}, {}, file)


def test_a_store_that_cannot_delete_many_at_once(s3_port, bucket):
    options = {**s3_options(f"http://127.0.0.1:{s3_port}"), "disable_bulk_delete": "true"}
    location = Location(f"s3://{bucket}/x", options)
    for key in "abc":
        location.write(key, iter([b"x"]), 1)
    location.delete(["a", "missing", "b"])
    assert [each.key for each in location.objects("")] == ["c"]
