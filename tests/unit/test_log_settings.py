import pytest
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from sampler_service.log.cluster import ClusterRouter
from sampler_service.log.connect import RedisSettings, open_redis
from sampler_service.log.keys import CurriculumKeys


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://localhost", "scheme 'http' is not one of"),
        ("localhost:6379", "scheme"),
        ("redis://", "names no host"),
        ("redis://host:99999", "host 'host:99999'"),
        ("redis://host/zero", "database 'zero' is not a number"),
        ("redis://host/0/1", "too many parts"),
        ("unix://", "needs the path"),
        ("redis+sentinel://host:26379", "master's name"),
        ("redis+cluster://host:7000/1", "database 0 only"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_its_reason(url: str, complaint: str):
    with pytest.raises(ValidationError, match="url") as refusal:
        RedisSettings(url=url)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://anna:hu/sh-hush@host:6379/2",
        "redis://anna:12/hush@host:6379/2",
        "redis://anna:hu#hush@host:6379/2",
        "redis://anna:12?hush@host:6379/2",
        "redis://host:6379/2?password=hush",
        "unix:///tmp/a.sock?password=hush",
        "unix:///tmp/a.sock?db=1&password=hush",
    ],
)
def test_a_password_that_breaks_the_url_is_not_repeated_and_the_remedy_is_named(url: str):
    with pytest.raises(ValidationError) as refusal:
        RedisSettings(url=url)
    (fault,) = refusal.value.errors()
    assert "percent-encoded" in fault["msg"]
    for piece in ("hu", "sh-", "12"):
        assert piece not in fault["msg"]


def test_a_prefix_with_braces_would_break_cluster_hash_tags_and_is_refused():
    with pytest.raises(ValidationError, match="key_prefix"):
        RedisSettings(key_prefix="a{b}")


def test_a_certificate_needs_its_key():
    with pytest.raises(ValidationError, match="go together"):
        RedisSettings(url="rediss://host", cert_file="cert.pem")


def test_passwords_are_not_shown():
    settings = RedisSettings(url="redis://anna:secret@host:6379/2", password="topsecret")
    assert settings.address == "redis://host:6379/2"
    assert "secret" not in repr(settings)


async def test_user_password_and_database_of_the_url_reach_the_client_and_fields_go_first():
    client = open_redis(RedisSettings(url="redis://anna:s%40crt@host:7000/2"))
    assert isinstance(client, Redis)
    arguments = client.connection_pool.connection_kwargs
    assert (arguments["host"], arguments["port"], arguments["db"]) == ("host", 7000, 2)
    assert (arguments["username"], arguments["password"]) == ("anna", "s@crt")
    client = open_redis(RedisSettings(url="redis://anna:old@host", username="ben", password="new"))
    assert client.connection_pool.connection_kwargs["username"] == "ben"
    assert client.connection_pool.connection_kwargs["password"] == "new"


async def test_each_kind_of_url_opens_its_kind_of_connection():
    unix = open_redis(RedisSettings(url="unix:///tmp/a%20b.sock?db=3"))
    assert unix.connection_pool.connection_class is UnixDomainSocketConnection
    assert unix.connection_pool.connection_kwargs["path"] == "/tmp/a b.sock"
    assert unix.connection_pool.connection_kwargs["db"] == 3
    tls = open_redis(RedisSettings(url="rediss://host", ca_file="/ca.pem"))
    assert tls.connection_pool.connection_class is SSLConnection
    assert tls.connection_pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
    assert isinstance(open_redis(RedisSettings(url="redis+cluster://a:7000,b:7001")), ClusterRouter)


async def test_redis_py_repeats_nothing_by_itself():
    client = open_redis(RedisSettings(url="redis://host"))
    assert client.connection_pool.connection_kwargs["retry"].get_retries() == 0


def test_all_keys_of_a_curriculum_share_one_hash_tag_whatever_its_id():
    for curriculum_id in ["math", "a}b", "{x}", "ü:ß"]:
        keys = CurriculumKeys.of("p:", curriculum_id)
        tags = set()
        for key in [*keys.data(), keys.horizon]:
            start = key.index("{")
            tags.add(key[start : key.index("}", start)])
        assert len(tags) == 1
