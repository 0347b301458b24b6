"""URLs of stores: what is wrong with one is said without its password."""

from __future__ import annotations

import pytest

from elk_coordinator import ConfigError, RedisDataStore
from elk_coordinator.store.connect import mask


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://user:hunter2@host:1/0", "redis://user:***@host:1/0"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("redis://:hunter2@hunter2@host/0", "redis://:***@host/0"),
        ("redis://:hunter2/hunter2@host/0", "redis://:***@host/0"),
        ("redis://host/0?password=hunter2&db=x", "redis://host/0?password=***&db=x"),
        ("redis://host/0?db=x&sentinel_password=hunter2", "redis://host/0?db=x&sentinel_password=***"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(url: str, shown: str) -> None:
    assert mask(url) == shown


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_no_part_of_a_password_that_cuts_the_url_is_in_the_error(sign: str) -> None:
    with pytest.raises(ConfigError, match="%2F") as caught:
        RedisDataStore.from_url("redis://:hunter2%shunter2@host:6379/0" % sign)
    assert "hunter2" not in str(caught.value)
